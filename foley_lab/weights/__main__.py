"""`python -m foley_lab.weights`: write the manifest of the shipped files anew."""

from foley_lab.weights.shipped import write_manifest

if __name__ == "__main__":
    print(write_manifest())
