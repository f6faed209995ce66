"""``python -m cellweave`` is the command ``cellweave``; ``torchrun -m cellweave train ...`` starts one a device."""

from cellweave.cli import main

if __name__ == "__main__":
    main()
