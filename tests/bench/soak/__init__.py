"""``python -m tests.bench.soak``: hours of use in minutes. What grows, and is every accepted call answered?"""
