"""Training by many processes: what they are told, one of them, and who starts them."""
