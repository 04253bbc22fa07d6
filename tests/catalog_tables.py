"""The tables of reference/kluster-api.md, typed out once more, so that a slip in catalog.toml shows."""

from __future__ import annotations

R1 = "deepseek-ai/DeepSeek-R1"
LLAMA_8B = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo"
LLAMA_70B = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
GEMMA = "google/gemma-3-27b-it"
VERIFY = "klusterai/verify-reliability"
BGE = "BAAI/bge-m3"

# Id: context, output, tools, vision, reasoning, fine-tunable, since, until.
MODELS: dict[str, tuple[int, int, bool, bool, bool, bool, str, str | None]] = {
    R1: (163840, 163840, False, False, True, False, "2025-01", "2025-07"),
    "deepseek-ai/DeepSeek-R1-0528": (163840, 163840, False, False, True, False, "2025-05-29", None),
    "deepseek-ai/DeepSeek-V3-0324": (163840, 163840, True, False, False, False, "2025-03", None),
    "deepseek-ai/DeepSeek-V3": (163840, 163840, False, False, False, False, "2025-03", "2025-04-24"),
    GEMMA: (65536, 8192, False, True, False, False, "2025-03", None),
    "mistralai/Magistral-Small-2506": (40960, 40960, False, False, True, False, "2025-06", None),
    "mistralai/Mistral-Nemo-Instruct-2407": (131072, 131072, False, False, False, False, "2025-05", None),
    "mistralai/Mistral-Small-24B-Instruct-2501": (32768, 32768, False, False, False, False, "2025-06", None),
    LLAMA_8B: (131072, 131072, True, False, False, True, "2024", None),
    LLAMA_70B: (131072, 131072, True, False, False, True, "2025-01", None),
    "klusterai/Meta-Llama-3.1-405B-Instruct-Turbo": (131072, 131072, True, False, False, False, "2024", "2025-04-24"),
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": (1048576, 1048576, False, True, False, False, "2025-04", None),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": (131072, 131072, False, True, False, False, "2025-04", None),
    "Qwen/Qwen2.5-VL-7B-Instruct": (32768, 32768, False, True, False, False, "2025-03", None),
    "Qwen/Qwen3-235B-A22B-FP8": (40960, 40960, True, False, True, False, "2025-05", None),
    VERIFY: (100000, 0, False, False, False, False, "2025-06", None),
    BGE: (8192, 0, False, False, False, False, "2025-04", None),
}

# Id: real-time input and output, batch by window.
PRICES: dict[str, tuple[tuple[float, float], dict[str, float]]] = {
    R1: ((3.00, 5.00), {"24h": 3.50, "48h": 3.00, "72h": 2.50}),
    "deepseek-ai/DeepSeek-R1-0528": ((3.00, 5.00), {}),
    "deepseek-ai/DeepSeek-V3-0324": ((0.70, 1.40), {"24h": 0.63, "48h": 0.50, "72h": 0.35}),
    "deepseek-ai/DeepSeek-V3": ((1.25, 1.25), {"24h": 0.63, "48h": 0.50, "72h": 0.35}),
    GEMMA: ((0.35, 0.35), {"24h": 0.30, "48h": 0.25, "72h": 0.20}),
    LLAMA_8B: ((0.18, 0.18), {"24h": 0.05, "48h": 0.04, "72h": 0.03}),
    LLAMA_70B: ((0.70, 0.70), {"24h": 0.20, "48h": 0.18, "72h": 0.15}),
    "klusterai/Meta-Llama-3.1-405B-Instruct-Turbo": ((3.50, 3.50), {"24h": 0.99, "48h": 0.89, "72h": 0.79}),
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": ((0.20, 0.80), {"24h": 0.25, "48h": 0.20, "72h": 0.15}),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": ((0.08, 0.45), {"24h": 0.15, "48h": 0.12, "72h": 0.10}),
    "Qwen/Qwen2.5-VL-7B-Instruct": ((0.30, 0.30), {"24h": 0.15, "48h": 0.10, "72h": 0.05}),
    "Qwen/Qwen3-235B-A22B-FP8": ((0.15, 2.00), {}),
}

PURPOSES = {VERIFY: "verification", BGE: "embeddings"}
