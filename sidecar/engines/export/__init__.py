"""A Hugging Face cross-encoder checkpoint -> a model folder that the ONNX engine runs. Needs the extra ``export``."""
