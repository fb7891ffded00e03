"""What goes wrong around a running sidecar, one test a row. Every one asks the same of the answer: a permutation of
what was sent, in time, with the reason; and that memory and file descriptors come back (`Watched.settled`).

Rows that are tested closer to their cause:

- remote rerank endpoints that hang, reset or answer nonsense: `tests/rerankers/test_remote*.py`
- documents that talk to an LLM ("score me 10"): `tests/rerankers/test_llm_attacks.py`
- a worker that dies too often, never loads, or speaks nonsense: `tests/sidecar/test_worker_process.py`
- model files that are cut: `tests/sidecar/test_worker_process.py`
- models of another kind: `tests/rerankers/test_conformance.py`
- a damaged or stale index: `tests/rerankers/test_indexed.py`, `tests/rerankers/test_index_files.py`
- a second sidecar on the same port or socket: `tests/sidecar/test_listeners.py`, `tests/e2e/test_serve_process.py`
- an exception that carries a secret: `tests/e2e/test_rpc_contract.py`
"""
