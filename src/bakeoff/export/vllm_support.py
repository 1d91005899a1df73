"""What vLLM serves: base models by their architecture, and adapters beside them.

The architectures are those of transformers in vLLM's docs/models/supported_models.md (commit 0046f77 of 2026), apart by
whether their column LoRA has a mark.
"""

from typing import Any

from bakeoff.errors import SetupError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of --max-lora-rank
_ADAPTERS = """
Afmoe Apertus Arcee Cohere Cohere2 Cohere2Moe Cwm DeepseekV2 DeepseekV3 DeepseekV32 Ernie4_5 Ernie4_5_Moe Exaone4
FalconH1 Gemma Gemma2 Gemma3 Gemma4 Glm Glm4 Glm4Moe Glm4MoeLite GlmMoeDsa GPTBigCode GptOss Granite GraniteMoe
GraniteMoeHybrid GraniteMoeShared GraniteMoeSWA GraniteSWA HunYuanDenseV1 HunYuanMoEV1 HYV3 HyperCLOVAX Jamba Lfm2
Lfm2Moe Llama LongcatFlash MiniCPM3 MiniMaxM2 Mistral Mixtral Nemotron NemotronH Olmo Olmo2 Olmo3 OlmoHybrid OPT Phi
Phi3 PhiMoE Qwen2 Qwen2Moe Qwen3 Qwen3Moe Qwen3Next SeedOss SmolLM3 Starcoder2 VaultGemma
"""
_NO_ADAPTERS = """
AXK1 Bloom Dbrx DeepseekV4 ExaoneMoe Falcon FalconMamba FlexOlmo Gemma3n GPTJ GPTNeoX HrmText Jais2 KimiLinear Mamba
Mamba2 Mellum MiMoV2Flash Mpt Olmoe StableLm Zamba2
"""
WITH_ADAPTERS = frozenset(f"{name}ForCausalLM" for name in _ADAPTERS.split())
WITHOUT_ADAPTERS = frozenset(f"{name}ForCausalLM" for name in _NO_ADAPTERS.split()) | {"GPT2LMHeadModel"}
# Fields of PEFT's LoraConfig that make another adapter of it than LoRA's two factors, or that vLLM does not read.
NOT_PLAIN = (
    "alora_invocation_tokens", "arrow_config", "layer_replication", "lora_bias", "modules_to_save", "monteclora_config",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora",
)  # fmt: skip


def check_vllm(where: str, architecture: str, peft: dict[str, Any]) -> None:
    """Raise SetupError unless vLLM serves this base with this adapter: a plain LoRA beside an architecture in its list.

    `peft` is PEFT's config of the adapter, empty if there is none.
    """
    if architecture not in WITH_ADAPTERS | WITHOUT_ADAPTERS:
        raise SetupError(f"{where}: vLLM's list of models does not have {architecture}. Try: bakeoff serve")
    if "num_virtual_tokens" in peft:
        raise SetupError(f"{where}: vLLM does not serve virtual tokens. Try: bakeoff serve")
    whole = "--to merged, and vllm serve FOLDER"
    if architecture not in WITH_ADAPTERS:
        raise SetupError(f"{where}: vLLM serves {architecture} only without adapters. Try: {whole}")
    if not plain_lora(peft):
        raise SetupError(
            f"{where}: vLLM serves only plain LoRA adapters. Try: {'--to lora --rank 64, or ' if peft else ''}{whole}"
        )
    if (rank := largest_rank(peft)) > RANKS[-1]:
        raise SetupError(f"{where}: vLLM takes ranks up to {RANKS[-1]}, but this is {rank}. Try: {whole}")


def plain_lora(peft: dict[str, Any]) -> bool:
    """Return whether an adapter is a LoRA of causal models with one scale, which is all that vLLM reads of it."""
    if peft.get("peft_type") != "LORA" or peft.get("task_type") != "CAUSAL_LM":
        return False
    if any(peft.get(field) for field in NOT_PLAIN) or peft.get("bias", "none") != "none":
        return False
    ranks, alphas = peft.get("rank_pattern") or {}, peft.get("alpha_pattern") or {}
    power = 0.5 if peft.get("use_rslora") else 1
    scales = {alphas.get(name, peft["lora_alpha"]) / ranks.get(name, peft["r"]) ** power for name in (*ranks, *alphas)}
    own = peft["lora_alpha"] / peft["r"] ** power
    return all(abs(scale - own) <= 1e-6 * own for scale in scales)


def largest_rank(peft: dict[str, Any]) -> int:
    """Return the largest rank of a LoRA's factors."""
    return max([peft["r"], *(peft.get("rank_pattern") or {}).values()])
