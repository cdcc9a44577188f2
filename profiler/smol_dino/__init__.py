"""smol-dino: SmolLM2-135M-Instruct and DINOv2-S/14 as one LLaVA, built on first use."""
