"""What every layer shares: images, errors, label operations, files, device choice. Imports nothing above it."""
