"""What people and scripts read of a study: sentences, tables, pictures, a page, exports, MLflow.

Reads the table of runs (`updater.study.tabulated`) and computes no result of its own. `outputs`
writes all of it into a folder, `publish` into MLflow; both are called by `updater.study.finish`.
"""
