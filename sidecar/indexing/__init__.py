"""Indexes of token vectors: PLAID indexes that RAGatouille builds, with a manifest of ours (extra ``ragatouille``)."""
