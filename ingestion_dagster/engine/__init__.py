"""What every pipeline shares, and which knows no pipeline."""
