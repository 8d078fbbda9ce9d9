"""What must not move, and how hard to hold it: importance, Fisher, quadratic anchors.

Imports torch, numpy and safetensors only; knows neither the model nor the data.
"""
