"""One rank of the 671B model on one GPU, beside its floors and other engines' recorded times."""
