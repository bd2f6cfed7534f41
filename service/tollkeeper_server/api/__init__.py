"""The gRPC face: what arrives is checked and converted here, what leaves is made here, and nowhere else."""
