"""`register` makes `init_chat_model("kluster:…")` work."""

from __future__ import annotations

from kluster_integrations.langchain._compat import provider_table

__all__ = ["register"]

_WANTED = (("langchain.chat_models.base", "ChatKluster"), ("langchain.embeddings.base", "KlusterEmbeddings"))


def register() -> None:
    """Make `init_chat_model("kluster:<model id>")` and `init_embeddings("kluster:<model id>")` known to LangChain.

    LangChain has no public way to add a provider, so this changes a private table. Calling it again does no harm.

    Raises:
        ImportError: If the package `langchain` is not installed.
        RuntimeError: If this version of `langchain` keeps its providers elsewhere. Use `ChatKluster(model=…)` then.
    """
    for module_name, class_name in _WANTED:
        try:
            table = provider_table(module_name)
        except RuntimeError as err:
            raise RuntimeError(f"{err}; use {class_name}(model=…), or a newer langchain.") from None
        table["kluster"] = ("kluster_integrations.langchain", class_name, lambda cls, **kwargs: cls(**kwargs))
