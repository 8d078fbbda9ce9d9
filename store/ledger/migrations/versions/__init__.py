"""One file per revision of the ledger's schema, numbered in sequence, never edited once shipped."""
