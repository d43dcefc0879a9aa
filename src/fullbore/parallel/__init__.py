"""How one model lies on several devices, and what they exchange."""
