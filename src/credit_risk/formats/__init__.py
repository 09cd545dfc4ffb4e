"""The formats a model is stored in: skops and ONNX, and the reference rows that check both."""
