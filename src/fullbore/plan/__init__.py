"""What a server will carry, before it is bought."""
