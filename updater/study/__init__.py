"""Studies: arms of methods over a stream of periods, by seeds, compared with statistics.

Not the service's own update (`updater.pipeline`), which releases what it learns; a study releases
nothing. Called by `updater study`.
"""
