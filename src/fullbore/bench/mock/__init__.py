"""A server without a model whose timing is exactly known: the truth that measuring is held against."""
