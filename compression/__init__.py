"""What of a trained network can go: scores of its parts, and masks by them.

Imports torch and `regularizers` only; knows neither the model nor the data.
"""
