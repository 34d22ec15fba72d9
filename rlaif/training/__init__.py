"""What all training shares: losses, prompt-shared rows, the batch plan, checkpoints."""
