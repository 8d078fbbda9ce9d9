"""Post-training quantization of a checkpoint's weights, in the forms that serving stacks load.

    kept.py         which weights stay as they are, and by whose recipe
    activations.py  how large what comes into each matrix is, for the schemes that quantize it too
    pack.py         the numbers of one weight, by torchao
    told.py         what config.json and hf_quant_config.json say of it
    write.py        the folder: all of the above

Not the way back: `updater.nemotron.checkpoint.load(folder, quantized=True)` computes what the
quantized weights do.
"""
