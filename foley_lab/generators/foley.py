"""What was seen and read, turned into a velocity of latents (HunyuanVideo-Foley, arXiv:2508.16930).

    latents, t ──┐
    sync tokens ─┼→ two-stream blocks ──→ audio-only blocks ──→ v ≈ noise − sound
    visual ──────┤  (audio | picture,     (audio, steered by
    text ────────┘   both ask the text)    time + sync)

1. Sync tokens, brought to the latent rate, are added to the audio tokens: they say *when*.
2. A two-stream block lets audio and visual tokens attend to each other on one interleaved clock,
   then to the text: they say *what*.
3. An audio-only block is steered token by token by time + sync, so the timing reaches every layer.

SMALL, XL and XXL are configurations of one class. Attribute names and tensor shapes are those of
the official files. What depends on the clip alone is computed in `prepare`, what depends on the
step in `velocity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foley_lab.nn.attention import (
    attend,
    interleaved_positions,
    nearest_index,
    normalise_and_rotate,
    rotary_table,
    spaced_index,
)
from foley_lab.nn.layers import (
    MLP,
    ConvMLP,
    Modulation,
    RMSNorm,
    SwiGLU,
    TextProjection,
    TimeConv,
    TimeEmbedding,
    modulate,
)

EPS = 1e-6
"""Of the norms in embedders, two-stream blocks and final layer."""
SINGLE_EPS = 1e-5
"""Of the layer norms in audio-only blocks."""
SINGLE_HEAD_EPS = torch.finfo(torch.float32).eps
"""Of the head norms in audio-only blocks: left open officially, which torch reads as this."""


@dataclass(frozen=True)
class FoleyConfig:
    """Shape of a `FoleyTransformer`.

    Attributes:
        depth_triple_blocks, depth_single_blocks: Number of two-stream and of audio-only blocks.
        hidden_size: Width D.
        num_heads: Heads H; D / H is even.
        mlp_ratio: Width of the MLPs over D.
        clip_dim, sync_dim, condition_dim: Widths of visual, sync and text tokens.
        audio_vae_latent_dim: Latent channels C.
        text_length: Most text tokens.
        sync_positions: Sync tokens come in groups of this many, each with its own learnt offset; 0:
            no groups.
        sync_kernel: Kernel of the MLP on sync tokens, 1 or 3.
        interleaved_rope: Audio and visual tokens share one clock; otherwise each its own.
        pooled_text: The mean of the prompt's tokens steers every block beside the time (as in
            Stable Diffusion 3, arXiv:2403.03206); no official size does so.
        inert_parameters: Keep the tensors of the official files that cannot change the result: the
            final modulation, and what the last two-stream block does to visual tokens nobody reads.
    """

    depth_triple_blocks: int
    depth_single_blocks: int
    hidden_size: int
    num_heads: int
    mlp_ratio: float = 4.0
    clip_dim: int = 768
    sync_dim: int = 768
    condition_dim: int = 768
    audio_vae_latent_dim: int = 128
    text_length: int = 77
    sync_positions: int = 8
    sync_kernel: int = 1
    interleaved_rope: bool = True
    inert_parameters: bool = True
    pooled_text: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} with {self.num_heads} heads, wanted an even width "
                "per head, choose a hidden_size divisible by 2 * num_heads"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLPs."""
        return int(self.hidden_size * self.mlp_ratio)

    @classmethod
    def from_official(cls, options: Mapping[str, Any]) -> FoleyConfig:
        """Read `model_kwargs` of an official YAML file; options without influence are passed over.

        Raises:
            ValueError: If an option asks for a variant that has never been published, one without
                a default is missing, or one is no number that fits.
        """
        fixed = {
            "sync_modulation": False,
            "use_attention_mask": False,
            "add_sync_feat_to_audio": True,
            "condition_projection": "linear",
            "qk_norm_type": "rms",
            "patch_size": 1,
            "rope_dim_list": None,
        }
        for name, wanted in fixed.items():
            if options.get(name, wanted) != wanted:
                raise ValueError(
                    f"{name} = {options[name]!r} in the model options, wanted {wanted!r}, "
                    "use the options of the published xl or xxl model"
                )
        names = {
            "sync_dim": "sync_feat_dim",
            "sync_kernel": "sync_in_ksz",
            "interleaved_rope": "interleaved_audio_visual_rope",
        }
        chosen: dict[str, Any] = {}
        for each in fields(cls):
            key = names.get(each.name, each.name)
            if key in options:
                chosen[each.name] = _fitting(key, options[key], str(each.type))
            elif each.default is MISSING:
                raise ValueError(
                    f"model options {sorted(options)!r:.200} without {key}, wanted all of "
                    "model_kwargs, use the options of the published xl or xxl model"
                )
        return cls(**chosen)


def _fitting(key: str, value: Any, kind: str) -> Any:
    """An option of a kind "int", "float" or "bool".

    Raises:
        ValueError: If it is none, or no size.
    """
    known = isinstance(value, bool) if kind == "bool" else type(value) in (int, float)
    least = 0 if key == "sync_positions" else 1
    if not known or (kind == "int" and (type(value) is not int or value < least)) or value < 0:
        wanted = {"bool": "true or false", "int": f"a whole number from {least} on"}
        raise ValueError(
            f"{key} = {value!r:.60} in the model options, wanted {wanted.get(kind, 'a number')}, "
            "use the options of the published xl or xxl model"
        )
    return value


XXL = FoleyConfig(18, 36, 1536, 12)
XL = FoleyConfig(12, 24, 1408, 11)
SMALL = FoleyConfig(
    2,
    5,
    192,
    3,
    mlp_ratio=2.0,
    clip_dim=128,
    sync_dim=24,
    condition_dim=384,
    text_length=32,
    sync_positions=0,
    inert_parameters=False,
    pooled_text=True,
)


@dataclass(frozen=True)
class Rotary:
    """Turns of every kind of token, complex64 [tokens, d / 2].

    Attributes:
        joint_audio, joint_visual: In the attention of audio and picture.
        audio, visual, text: Everywhere else, each from 0.
        source: Visual token read at each visual place, or None when each is its own.
    """

    joint_audio: Tensor
    joint_visual: Tensor
    audio: Tensor
    visual: Tensor
    text: Tensor
    source: Tensor | None

    @classmethod
    @lru_cache(maxsize=64)
    def build(
        cls, dim: int, audio: int, visual: int, text: int, interleaved: bool, device: torch.device
    ) -> Rotary:
        """Tables for these numbers of tokens and this head width."""
        own = [rotary_table(length, dim, device) for length in (audio, visual, text)]
        if not interleaved:
            spread = rotary_table(visual, dim, device, audio / visual)
            return cls(own[0], spread, *own, source=None)
        positions, source = interleaved_positions(audio, visual)
        with torch.inference_mode(False), torch.no_grad():  # kept across calls, see `rotary_table`
            clock = rotary_table(2 * audio, dim, device)
            turns = clock[0::2].contiguous(), clock[positions.to(device)]
            return cls(*turns, *own, source=None if source is None else source.to(device))


@dataclass(frozen=True)
class Conditions:
    """What a clip contributes to every step; made by `FoleyTransformer.prepare`.

    Attributes:
        visual: Visual tokens [B, V, D].
        sync: What each latent frame hears, [B, T, D]; or only the R tokens that differ, [R, D].
        sync_index: Row of `sync` that each latent frame hears, int64 [B, T]; None for [B, T, D].
        text: Keys and values of each two-stream block, [B, L, H, d] each.
        text_mask: Which text tokens are read, bool [B, L]; None for all.
        steering: What the whole prompt adds to the time embedding [B, 1, D]; None without
            `pooled_text`.
        rotary: Positions.
        latents_length: T.
        modulation: By time, what it makes of each two-stream block, see `tabulate`.
    """

    visual: Tensor
    sync: Tensor
    sync_index: Tensor | None
    text: tuple[tuple[Tensor, Tensor], ...]
    text_mask: Tensor | None
    steering: Tensor | None
    rotary: Rotary
    latents_length: int
    modulation: Mapping[float, tuple[tuple[Tensor, Tensor], ...]] = field(default_factory=dict)

    def select(self, rows: Tensor) -> Conditions:
        """The conditions of these batch rows, int64 [B'], repeats allowed."""
        return replace(
            self,
            visual=self.visual[rows],
            sync=self.sync[rows] if self.sync_index is None else self.sync,
            sync_index=None if self.sync_index is None else self.sync_index[rows],
            text=tuple((keys[rows], values[rows]) for keys, values in self.text),
            text_mask=None if self.text_mask is None else self.text_mask[rows],
            steering=None if self.steering is None else self.steering[rows],
        )


class AudioEmbedder(nn.Module):
    """Latents to tokens: [B, C, T] → [B, T, D]."""

    def __init__(self, config: FoleyConfig):
        super().__init__()
        self.proj = TimeConv(config.audio_vae_latent_dim, config.hidden_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(1, 2))


class TripleBlock(nn.Module):
    """Two streams, audio and picture: joint self-attention, cross-attention to the text, an MLP
    each.

    `reads_visual_out` is False in the last block: its visual tokens are read by nobody, so it does
    not make them.
    """

    def __init__(self, config: FoleyConfig, reads_visual_out: bool = True):
        super().__init__()
        dim, head_dim = config.hidden_size, config.head_dim
        self.num_heads = config.num_heads
        self.reads_visual_out = reads_visual_out

        self.audio_mod = Modulation(dim, 9)
        self.audio_self_attn_qkv = nn.Linear(dim, 3 * dim)
        self.audio_self_q_norm = RMSNorm(head_dim)
        self.audio_self_k_norm = RMSNorm(head_dim)
        self.audio_self_proj = nn.Linear(dim, dim)
        self.v_cond_mod = Modulation(dim, 9)
        self.v_cond_attn_qkv = nn.Linear(dim, 3 * dim)
        self.v_cond_attn_k_norm = RMSNorm(head_dim)

        self.audio_cross_q = nn.Linear(dim, dim)
        self.text_cross_kv = nn.Linear(dim, 2 * dim)
        self.audio_cross_q_norm = RMSNorm(head_dim)
        self.text_cross_k_norm = RMSNorm(head_dim)
        self.audio_cross_proj = nn.Linear(dim, dim)
        self.audio_mlp = MLP(dim, config.mlp_dim)

        if reads_visual_out or config.inert_parameters:
            self.v_cond_attn_q_norm = RMSNorm(head_dim)
            self.v_cond_self_proj = nn.Linear(dim, dim)
            self.v_cond_cross_q = nn.Linear(dim, dim)
            self.v_cond_cross_q_norm = RMSNorm(head_dim)
            self.v_cond_cross_proj = nn.Linear(dim, dim)
            self.v_cond_mlp = MLP(dim, config.mlp_dim)

    def prepare_text(self, text: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Keys and values of the projected text [B, L, D], each [B, L, H, d]."""
        keys, values = self.text_cross_kv(text).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        return _turn(keys, self.text_cross_k_norm, rotary.text), values

    def modulate_at(self, activated: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts, gains and gates of both streams, [.., 9·D] each.

        Args:
            activated: silu of the time embedding, [.., D].
        """
        return self.audio_mod(activated), self.v_cond_mod(activated)

    def forward(
        self,
        audio: Tensor,
        visual: Tensor,
        modulation: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor],
        rotary: Rotary,
        text_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            audio: [B, T, D].
            visual: [B, V, D].
            modulation: From `modulate_at`, [1 or B, 1, 9·D] each.
            text: From `prepare_text`.
            rotary: Positions.
            text_mask: Which text tokens are read, bool [B, L]; None for all.

        Returns:
            audio [B, T, D] and visual [B, V, D], the latter unchanged unless `reads_visual_out`.
        """
        a_shift1, a_gain1, a_gate1, a_shift2, a_gain2, a_gate2, a_shift3, a_gain3, a_gate3 = (
            modulation[0].chunk(9, dim=-1)
        )
        v_shift1, v_gain1, v_gate1, v_shift2, v_gain2, v_gate2, v_shift3, v_gain3, v_gate3 = (
            modulation[1].chunk(9, dim=-1)
        )
        seen = visual.shape[1]

        # 1. Audio and picture attend to each other, visual tokens first.
        a_qkv = self.audio_self_attn_qkv(modulate(audio, a_shift1, a_gain1, EPS))
        v_qkv = self.v_cond_attn_qkv(modulate(visual, v_shift1, v_gain1, EPS))
        a_queries, a_keys, a_values = self._heads(a_qkv)
        v_queries, v_keys, v_values = self._heads(v_qkv)
        if rotary.source is not None:
            v_queries, v_keys = v_queries[:, rotary.source], v_keys[:, rotary.source]
        queries = _turn(a_queries, self.audio_self_q_norm, rotary.joint_audio)
        a_keys = _turn(a_keys, self.audio_self_k_norm, rotary.joint_audio)
        v_keys = _turn(v_keys, self.v_cond_attn_k_norm, rotary.joint_visual)
        keys = torch.cat([v_keys, a_keys], dim=1)
        values = torch.cat([v_values, a_values], dim=1)
        if self.reads_visual_out:
            v_queries = _turn(v_queries, self.v_cond_attn_q_norm, rotary.joint_visual)
            both = attend(torch.cat([v_queries, queries], dim=1), keys, values)  # [B, V + T, D]
            visual = torch.addcmul(visual, v_gate1, self.v_cond_self_proj(both[:, :seen]))
            heard = both[:, seen:]
        else:
            heard = attend(queries, keys, values)  # [B, T, D]
        audio = torch.addcmul(audio, a_gate1, self.audio_self_proj(heard))

        # 2. Both ask the text.
        queries = self.audio_cross_q(modulate(audio, a_shift2, a_gain2, EPS))
        queries = queries.unflatten(-1, (self.num_heads, -1))
        queries = _turn(queries, self.audio_cross_q_norm, rotary.audio)
        if self.reads_visual_out:
            v_queries = self.v_cond_cross_q(modulate(visual, v_shift2, v_gain2, EPS))
            v_queries = v_queries.unflatten(-1, (self.num_heads, -1))
            v_queries = _turn(v_queries, self.v_cond_cross_q_norm, rotary.visual)
            both = attend(torch.cat([v_queries, queries], dim=1), *text, text_mask)
            visual = torch.addcmul(visual, v_gate2, self.v_cond_cross_proj(both[:, :seen]))
            heard = both[:, seen:]
        else:
            heard = attend(queries, *text, text_mask)
        audio = torch.addcmul(audio, a_gate2, self.audio_cross_proj(heard))

        # 3. Each for itself.
        mixed = self.audio_mlp(modulate(audio, a_shift3, a_gain3, EPS))
        audio = torch.addcmul(audio, a_gate3, mixed)
        if self.reads_visual_out:
            mixed = self.v_cond_mlp(modulate(visual, v_shift3, v_gain3, EPS))
            visual = torch.addcmul(visual, v_gate3, mixed)
        return audio, visual

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """[B, N, 3·H·d] → queries, keys, values [B, N, H, d]."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)


class SingleBlock(nn.Module):
    """Audio alone: self-attention and a convolutional MLP, steered token by token."""

    def __init__(self, config: FoleyConfig):
        super().__init__()
        dim = config.hidden_size
        self.num_heads = config.num_heads
        self.modulation = Modulation(dim, 6)
        self.linear_qkv = nn.Linear(dim, 3 * dim)
        self.linear1 = TimeConv(dim, dim, kernel=3, bias=True)
        self.linear2 = ConvMLP(dim, config.mlp_dim, kernel=3)
        self.q_norm = RMSNorm(config.head_dim)
        self.k_norm = RMSNorm(config.head_dim)
        self.heads_sorted = False

    def forward(
        self, x: Tensor, activated: Tensor, sync_index: Tensor | None, table: Tensor
    ) -> Tensor:
        """One block.

        Args:
            x: Audio tokens [B, T, D].
            activated: silu(time + sync), [B, T, D]; only the rows that differ [R, D] when there is
                a `sync_index`.
            sync_index: Row of `activated` for each token, [B, T]. Neighbours share rows, takes do,
                and all that see nothing do, so steering the rows and spreading them after costs
                less than the other way round.
            table: Rotary positions [T, d / 2].
        """
        steering = self.modulation(activated)  # [B, T, 6·D], or [R, 6·D]
        if sync_index is not None:
            steering = steering[sync_index]  # [B, T, 6·D]
        shift1, gain1, gate1, shift2, gain2, gate2 = steering.chunk(6, dim=-1)

        queries, keys, values = self._qkv(modulate(x, shift1, gain1, SINGLE_EPS))
        queries = _turn(queries, self.q_norm, table, SINGLE_HEAD_EPS)
        keys = _turn(keys, self.k_norm, table, SINGLE_HEAD_EPS)
        x = torch.addcmul(x, gate1, self.linear1(attend(queries, keys, values)))
        return torch.addcmul(x, gate2, self.linear2(modulate(x, shift2, gain2, SINGLE_EPS)))

    def _qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, T, D] → queries, keys, values [B, T, H, d].

        The official rows are ordered [H, d, 3], which would leave every query scattered in memory;
        the rows of the small matrix are sorted to [3, H, d] instead of the many tokens.
        """
        if self.heads_sorted:
            qkv = self.linear_qkv(x)
        else:
            qkv = F.linear(x, *map(_sorted_rows, (self.linear_qkv.weight, self.linear_qkv.bias)))
        return qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)

    @torch.no_grad()
    def sort_heads(self) -> None:
        """Sort the rows once and for all; the tensors are no official ones any more."""
        if not self.heads_sorted:
            for parameter in (self.linear_qkv.weight, self.linear_qkv.bias):
                parameter.data = _sorted_rows(parameter.data).contiguous()
            self.heads_sorted = True


class FinalLayer(nn.Module):
    """Norm and projection to latent channels: [B, T, D] → [B, T, C].

    The official file holds a modulation here that its own code discards; it is loaded and never
    applied.
    """

    def __init__(self, config: FoleyConfig):
        super().__init__()
        dim = config.hidden_size
        self.linear = nn.Linear(dim, config.audio_vae_latent_dim)
        if config.inert_parameters:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=EPS))


class FoleyTransformer(nn.Module):
    """Velocity of latents under what was seen and read.

    Parameters are left as torch makes them: load a checkpoint, or call `init_weights` to train from
        nothing.
    """

    def __init__(self, config: FoleyConfig):
        super().__init__()
        self.config = config
        dim, last = config.hidden_size, config.depth_triple_blocks - 1
        if config.sync_positions:
            self.sync_pos_emb = nn.Parameter(
                torch.empty(1, 1, config.sync_positions, config.sync_dim)
            )
        self.empty_clip_feat = nn.Parameter(torch.empty(1, config.clip_dim))
        self.empty_sync_feat = nn.Parameter(torch.empty(1, config.sync_dim))
        self.audio_embedder = AudioEmbedder(config)
        self.visual_proj = SwiGLU(config.clip_dim, dim)
        self.cond_in = TextProjection(config.condition_dim, dim)
        self.time_in = TimeEmbedding(dim)
        if config.pooled_text:
            self.pooled_text_in = TextProjection(config.condition_dim, dim)
        self.sync_in = nn.Sequential(
            nn.Linear(config.sync_dim, dim),
            nn.SiLU(),
            ConvMLP(dim, config.mlp_dim, config.sync_kernel),
        )
        self.triple_blocks = nn.ModuleList(
            TripleBlock(config, reads_visual_out=i < last)
            for i in range(config.depth_triple_blocks)
        )
        self.single_blocks = nn.ModuleList(
            SingleBlock(config) for _ in range(config.depth_single_blocks)
        )
        self.final_layer = FinalLayer(config)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Start for training from nothing: every block passes its input on, and the velocity is
        zero.

        Args:
            generator: Source of the random numbers, on the device of the parameters.
        """
        for name, parameter in self.named_parameters():
            parent = self.get_submodule(name.rpartition(".")[0])
            zero = (".modulation.", "_mod.", "final_layer.")
            if isinstance(parent, RMSNorm):
                parameter.fill_(1.0)
            elif name.endswith("bias") or any(part in name for part in zero):
                parameter.zero_()
            elif isinstance(parent, (nn.Linear, TimeConv)):
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:  # learnt offsets and empty features
                nn.init.normal_(parameter, std=0.02, generator=generator)

    def prepare(
        self,
        visual: Tensor,
        sync: Tensor,
        text: Tensor,
        latents_length: int,
        text_mask: Tensor | None = None,
        sync_per_latent: float | None = None,
    ) -> Conditions:
        """Everything about a clip that no step changes.

        Args:
            visual: Content tokens [B, V, clip_dim].
            sync: Sync tokens [B, S, sync_dim], evenly spaced over the latents.
            text: Prompt tokens [B, L, condition_dim].
            latents_length: T, the frames to be generated.
            text_mask: Which text tokens are read, bool [B, L], at least one of each sample; None
                for all, as the official model reads the padding of the shorter prompt too.
            sync_per_latent: Sync tokens to a latent frame where they shall lie as densely as in
                training, whatever their number; None spreads them over the latents.

        Raises:
            ValueError: If widths or batches do not fit, the text is too long, or S is no whole
                number of groups.
        """
        config = self.config
        self._check_features(visual, sync, text)
        visual, sync, text = (tokens.to(self.dtype) for tokens in (visual, sync, text))
        if config.sync_positions:
            groups = sync.unflatten(1, (-1, config.sync_positions))
            sync = (groups + self.sync_pos_emb).flatten(1, 2)
        heard, sync_index = self._hear(sync, latents_length, sync_per_latent)
        rotary = Rotary.build(
            config.head_dim,
            latents_length,
            visual.shape[1],
            text.shape[1],
            config.interleaved_rope,
            sync.device,
        )
        steering = None
        if config.pooled_text:
            said = (text != 0).any(-1, keepdim=True).to(text.dtype)  # what follows a prompt is zero
            steering = self.pooled_text_in((text * said).sum(1) / said.sum(1).clamp(min=1))[:, None]
        text = self.cond_in(text)
        return Conditions(
            visual=self.visual_proj(visual),
            sync=heard,
            sync_index=sync_index,
            text=tuple(cast(TripleBlock, b).prepare_text(text, rotary) for b in self.triple_blocks),
            text_mask=None if text_mask is None or bool(text_mask.all()) else text_mask,
            steering=steering,
            rotary=rotary,
            latents_length=latents_length,
        )

    def _hear(
        self, sync: Tensor, length: int, per_latent: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Sync tokens [B, S, sync_dim] as `length` latent frames hear them: `sync` and `sync_index`
        of `Conditions`."""
        if sync.shape[1] == length and per_latent is None:
            return self.sync_in(sync), None
        if per_latent is None:
            index = nearest_index(sync.shape[1], length)
        else:
            index = spaced_index(sync.shape[1], length, per_latent)
        index = index.to(sync.device)
        if self.config.sync_kernel > 1 or torch.is_grad_enabled():
            return self.sync_in(sync)[:, index], None
        # 8 s hold 192 tokens for 400 frames, of the empty ones 8 differ, and takes share them all.
        rows, which = torch.unique(sync.flatten(0, 1), dim=0, return_inverse=True)
        return self.sync_in(rows), which.unflatten(0, sync.shape[:2])[:, index]

    def tabulate(self, times: Sequence[float]) -> dict[float, tuple[tuple[Tensor, Tensor], ...]]:
        """What these times make of the two-stream blocks, all in one product: `modulation` of
        `Conditions`.

        A step alone reads those matrices, a third of all two-stream weights, for one row each.
        With `pooled_text` they are not the time's alone, and the table is empty.

        Args:
            times: t in [0, 1], as `velocity` will be asked for them; others are computed then.
        """
        if self.config.pooled_text or not times:
            return {}
        clock = torch.tensor(list(times), dtype=torch.float32, device=self.empty_clip_feat.device)
        activated = F.silu(self.time_in(1000.0 * clock))  # [n, D]
        blocks = [cast(TripleBlock, b).modulate_at(activated) for b in self.triple_blocks]
        return {
            t: tuple((a[None, i : i + 1], v[None, i : i + 1]) for a, v in blocks)
            for i, t in enumerate(times)
        }

    def velocity(self, x_t: Tensor, t: Tensor | float, conditions: Conditions) -> Tensor:
        """Direction from sound to noise, v(x_t, t) ≈ noise − latents (Liu et al. 2022,
        arXiv:2209.03003).

        Args:
            x_t: Noisy latents [B, C, T].
            t: Time in [0, 1], [B], or one for all; 1 is noise. One for all is quicker.
            conditions: From `prepare`, once per clip.

        Returns:
            Velocity [B, C, T] in the dtype the network computes in.

        Raises:
            ValueError: If x_t has other channels or another length than the conditions were
                prepared for.
        """
        time = torch.as_tensor(t, dtype=torch.float32, device=x_t.device).reshape(-1)
        known = conditions.modulation.get(t) if isinstance(t, float) else None
        return self._velocity(x_t, 1000.0 * time, conditions, known)

    def _velocity(
        self,
        x_t: Tensor,
        time: Tensor,
        conditions: Conditions,
        modulation: tuple[tuple[Tensor, Tensor], ...] | None = None,
    ) -> Tensor:
        """`velocity` on the network's own clock, 0 .. 1000."""
        wanted = (self.config.audio_vae_latent_dim, conditions.latents_length)
        if x_t.shape[1:] != wanted or x_t.shape[0] != conditions.visual.shape[0]:
            raise ValueError(
                f"noisy latents {list(x_t.shape)}, wanted {[conditions.visual.shape[0], *wanted]}, "
                "prepare the conditions for this batch and length"
            )
        embedding = self.time_in(time)[:, None]  # [1 or B, 1, D]
        if conditions.steering is not None:
            embedding = embedding + conditions.steering

        sync, index, rotary = conditions.sync, conditions.sync_index, conditions.rotary
        heard = sync if index is None else sync[index]  # [B, T, D]
        audio = self.audio_embedder(x_t.to(self.dtype)) + heard
        visual = conditions.visual
        if modulation is None:
            activated = F.silu(embedding)
            blocks = (cast(TripleBlock, block) for block in self.triple_blocks)
            modulation = tuple(block.modulate_at(activated) for block in blocks)
        for block, text, each in zip(self.triple_blocks, conditions.text, modulation, strict=True):
            audio, visual = block(audio, visual, each, text, rotary, conditions.text_mask)

        if index is not None and embedding.shape[0] == 1:
            activated = F.silu(sync + embedding[0])  # [R, D]
        else:
            activated, index = F.silu(heard + embedding), None  # [B, T, D]
        for block in self.single_blocks:
            audio = block(audio, activated, index, rotary.audio)
        return self.final_layer(audio).transpose(1, 2)  # [B, C, T]

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        clip_feat: Tensor,
        cond: Tensor,
        sync_feat: Tensor,
        drop_visual: Tensor | None = None,
    ) -> Tensor:
        """One call in the official argument order and with t in 0 .. 1000: `prepare`, then
        `velocity`.

        Args:
            drop_visual: Boolean [B]; these samples see the learnt empty features.
        """
        if drop_visual is not None:
            clip_feat, sync_feat = self.without_video(clip_feat, sync_feat, drop_visual)
        conditions = self.prepare(clip_feat, sync_feat, cond, x.shape[-1])
        return self._velocity(x, t, conditions)

    def without_video(self, visual: Tensor, sync: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Visual [B, V, ·] and sync [B, S, ·] tokens, the learnt empty ones where `drop` [B] is
        true.

        The caller's tensors stay as they are.
        """
        drop = drop[:, None, None]
        return (
            torch.where(drop, self.empty_clip_feat.to(visual.dtype), visual),
            torch.where(drop, self.empty_sync_feat.to(sync.dtype), sync),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, hence of the tokens."""
        return self.empty_clip_feat.dtype

    def _check_features(self, visual: Tensor, sync: Tensor, text: Tensor) -> None:
        config = self.config
        for name, tokens, width in (
            ("visual", visual, config.clip_dim),
            ("sync", sync, config.sync_dim),
            ("text", text, config.condition_dim),
        ):
            if tokens.ndim != 3 or tokens.shape[1] < 1 or tokens.shape[2] != width:
                raise ValueError(
                    f"{name} tokens {list(tokens.shape)}, wanted [batch, at least 1, {width}], "
                    "use the encoders this model was trained with"
                )
            if tokens.shape[0] != visual.shape[0]:
                raise ValueError(
                    f"{tokens.shape[0]} clips of {name} tokens beside {visual.shape[0]} of visual "
                    "tokens, wanted as many of each, repeat the shorter batch"
                )
        if text.shape[1] > config.text_length:
            raise ValueError(
                f"{text.shape[1]} text tokens, wanted at most {config.text_length}, cut the prompt"
            )
        if config.sync_positions and sync.shape[1] % config.sync_positions:
            raise ValueError(
                f"{sync.shape[1]} sync tokens, wanted a multiple of {config.sync_positions}, "
                "cut the clip at whole segments"
            )


def _sorted_rows(rows: Tensor) -> Tensor:
    """Rows ordered [H, d, 3] in the order [3, H, d]."""
    return rows.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)


def _turn(heads: Tensor, norm: RMSNorm, table: Tensor, eps: float = EPS) -> Tensor:
    """Norm and rotary positions of queries or keys [B, N, H, d]."""
    return normalise_and_rotate(heads, norm.weight, table, eps)
