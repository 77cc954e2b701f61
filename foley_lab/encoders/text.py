"""Words to text tokens: all-MiniLM-L6-v2, a pretrained sentence encoder of 22.6 M weights.

    "a glass ball" ─word pieces→ ids [n] ─six layers→ [n, D] ─normalise, pad→ tokens [L, D]

The network is BERT (Devlin et al. 2018, arXiv:1810.04805) at the size of MiniLM (Wang et al. 2020,
arXiv:2002.10957), tuned on sentence pairs (Reimers and Gurevych 2019, arXiv:1908.10084). It is
written out here as one function over the official tensors, because importing transformers takes
two seconds of every start; the tests hold it against transformers' BertModel.

Every token is normalised to mean 0 and RMS 1, and what follows the text is zero, so that the length
is always `max_tokens` and a prompt gives the same tokens alone and in a batch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from foley_lab.signals import MissingWeights
from foley_lab.weights import SHIPPED, load_shipped


@dataclass(frozen=True)
class MiniLMConfig:
    """Shape of the encoder.

    Attributes:
        vocab_size: Word pieces known.
        width: D, size of a token.
        num_layers, num_heads, mlp_width: Of the transformer.
        max_positions: Longest text the weights know.
        max_tokens: L, length of what `encode` hands out, [CLS] and [SEP] included.
        eps: Of the layer norms.
    """

    vocab_size: int = 30_522
    width: int = 384
    num_layers: int = 6
    num_heads: int = 12
    mlp_width: int = 1_536
    max_positions: int = 512
    max_tokens: int = 32
    eps: float = 1e-12


def hidden_states(weights: Mapping[str, Tensor], config: MiniLMConfig, ids: Tensor) -> Tensor:
    """Last hidden states [B, n, D] of word-piece ids [B, n], all of one length: no mask."""
    x = weights["embeddings.word_embeddings.weight"][ids]  # [B, n, D]
    x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]  # one sentence: type 0
    x = _norm(weights, config, "embeddings", x)
    for i in range(config.num_layers):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            _linear(weights, f"{layer}.attention.self.{name}", x)
            .unflatten(-1, (config.num_heads, -1))
            .transpose(1, 2)  # [B, H, n, D / H]
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, n, D]
        mixed = _linear(weights, f"{layer}.attention.output.dense", mixed)
        x = _norm(weights, config, f"{layer}.attention.output", x + mixed)
        wide = F.gelu(_linear(weights, f"{layer}.intermediate.dense", x))  # [B, n, mlp_width]
        mixed = _linear(weights, f"{layer}.output.dense", wide)
        x = _norm(weights, config, f"{layer}.output", x + mixed)
    return x


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], config: MiniLMConfig, name: str, x: Tensor) -> Tensor:
    weight, bias = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
    return F.layer_norm(x, (config.width,), weight, bias, config.eps)


class MiniLMText:
    """Prompts to text tokens; remembers the last `cache_size` prompts. Safe to share by threads."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        tokenizer: Tokenizer,
        config: MiniLMConfig,
        cache_size: int = 512,
    ):
        self.weights, self.tokenizer, self.config = weights, tokenizer, config
        self.cache_size = cache_size
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls) -> MiniLMText:
        """The encoder that ships with the package, on the CPU.

        Raises:
            MissingWeights: If its files are not there.
        """
        weights, config = load_shipped("minilm", name="text")
        path = SHIPPED / "text" / "tokenizer.json"
        if not path.is_file():
            raise MissingWeights(f"{path} is absent, wanted a tokenizer, install foley_lab anew")
        return cls(weights, Tokenizer.from_file(str(path)), MiniLMConfig(**config))

    def encode(self, prompts: Sequence[str | None]) -> Tensor:
        """Text tokens, one row a prompt.

        Args:
            prompts: Any text, cut to `max_tokens`; None and blank text give zeros.

        Returns:
            Tokens [B, L, D] float32 on the CPU: RMS 1 within the text, zero behind it.

        Raises:
            ValueError: If one string came instead of a sequence of them.
        """
        if isinstance(prompts, str):
            raise ValueError(f"prompts is one string {prompts!r}, wanted a list, write [prompt]")
        texts = [(prompt or "").strip() for prompt in prompts]
        with self._lock:
            known = {text: self._cache[text] for text in texts if text in self._cache}
        known |= self._encode_new(sorted({t for t in texts if t and t not in known}))
        with self._lock:
            for text in filter(None, texts):
                self._cache[text] = known[text]
                self._cache.move_to_end(text)
            while len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        tokens = torch.zeros(len(texts), self.config.max_tokens, self.config.width)
        for row, text in zip(tokens, texts, strict=True):
            if text:
                row[: len(known[text])] = known[text]
        return tokens  # [B, L, D]

    def truncated(self, prompt: str | None) -> str:
        """The end of the prompt that `encode` does not read; empty when it reads all of it."""
        text = (prompt or "").strip()
        starts = [start for start, _ in self.tokenizer.encode(text).offsets]
        # The last place read belongs to [SEP]; the word piece that stood there is the first lost.
        lost = len(starts) > self.config.max_tokens
        return text[starts[self.config.max_tokens - 1] :] if lost else ""

    @torch.no_grad()
    def _encode_new(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """Tokens [n, D] by text. Equal lengths go together, so that nothing needs a mask."""
        by_length: dict[int, list[tuple[str, list[int]]]] = {}
        for text in texts:
            ids = self.tokenizer.encode(text).ids
            if len(ids) > self.config.max_tokens:
                ids = [*ids[: self.config.max_tokens - 1], ids[-1]]  # keeps [SEP]
            by_length.setdefault(len(ids), []).append((text, ids))
        tokens: dict[str, Tensor] = {}
        for group in by_length.values():
            ids = torch.tensor([ids for _, ids in group])  # [B, n]
            hidden = hidden_states(self.weights, self.config, ids)  # [B, n, D]
            hidden = F.layer_norm(hidden, hidden.shape[-1:])
            tokens |= {text: row.clone() for (text, _), row in zip(group, hidden, strict=True)}
        return tokens
