"""The report on one version: a self-contained HTML page and its pictures.

`collect` reads the ledger and the workspace into a `ReportData`, `page.render` makes the page,
`figures` names every picture. Nothing is judged or stored here.
"""
