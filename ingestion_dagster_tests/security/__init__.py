"""What people who mean harm could send, and that it does none."""
