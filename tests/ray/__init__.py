"""The pool on a real, local Ray. Needs the extra `ray`: pip install -e '.[ray]'."""
