"""The formats a model is stored in: skops, ONNX, and the reference rows that check both."""
