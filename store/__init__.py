"""What outlives the process: the ledger (SQLAlchemy), datasets (DVC), checkpoints, the registry
(MLflow). Imports none of the other packages, and never torch."""
