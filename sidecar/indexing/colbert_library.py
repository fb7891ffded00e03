"""colbert-ai as this project uses it: made to work with transformers 5, quiet, in float32, without the network.

Everything that changes the library is here. It is changed for the whole process, so only a worker process and the
command that builds indexes may call this.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidecar.indexing.manifest import IndexFolderError

EXTRA = "millirank-server[ragatouille]"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the libraries print, their progress bars and their warnings from whoever reads ours."""
    nobody = io.StringIO()
    with contextlib.redirect_stdout(nobody), contextlib.redirect_stderr(nobody), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def silence_libraries() -> None:
    """No advice on stderr. To be called before they are imported: they read this once."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.filterwarnings("ignore", category=FutureWarning, module="colbert")  # it uses torch's older names


def require() -> None:
    """Raises IndexFolderError where the extra is not installed. Imports nothing: that takes seconds."""
    for package in ("colbert", "ragatouille"):
        if importlib.util.find_spec(package) is None:
            raise IndexFolderError(f"{package} is not installed: run `pip install '{EXTRA}'`")


def adapt(checkpoint: Path) -> None:
    """Makes colbert-ai load this checkpoint, and only from its folder, until it is called for another one."""
    from colbert.modeling import base_colbert, hf_colbert

    original = getattr(hf_colbert.class_factory, "original", hf_colbert.class_factory)

    def class_factory(name_or_path: str) -> Any:
        # The name may be that of a base model on the hub, which the checkpoint was trained from: its configuration is
        # in the checkpoint too, so nobody has to ask the hub.
        model_class = original(str(checkpoint))
        # transformers 5 reads the first, and expects a set in the second; colbert-ai 0.2.22 is older than both.
        model_class.all_tied_weights_keys = {}
        model_class._keys_to_ignore_on_load_unexpected = set(model_class._keys_to_ignore_on_load_unexpected)
        from_pretrained = model_class.from_pretrained
        # transformers 5 keeps the precision of the file, and half of it is slow on a CPU.
        model_class.from_pretrained = lambda *args, **options: from_pretrained(*args, **options).float()
        return model_class

    class_factory.original = original  # type: ignore[attr-defined]
    # Both modules hold the name: the second one imported it from the first.
    hf_colbert.class_factory = class_factory
    base_colbert.class_factory = class_factory


def load_model(checkpoint: Path, index: Path) -> Any:
    """The checkpoint as a ``colbert.modeling.checkpoint.Checkpoint``, cutting texts as the index says.

    Raises IndexFolderError.
    """
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint

    adapt(checkpoint)
    config = ColBERTConfig.load_from_index(str(index))
    config.configure(checkpoint=str(checkpoint))
    try:
        return Checkpoint(str(checkpoint), colbert_config=config, verbose=0)
    except Exception as error:  # transformers and tokenizers raise what they like
        raise IndexFolderError(f"checkpoint {checkpoint} cannot be loaded: {type(error).__name__}: {error}") from error
