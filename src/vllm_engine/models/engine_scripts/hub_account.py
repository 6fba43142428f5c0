"""Runs in the engine's Python: ask the hub whose token this is, and whether a model has a chat template.

Called as `ENGINE_PYTHON -I hub_account.py MODEL_ID REVISION`. Prints one object: `{"account": name or null,
"refused": whether the hub does not accept the token, "template": true, false or null for unknown}`. The token
itself is never printed.
"""

import json
import sys
from pathlib import Path


def ask(model_id: str, revision: str | None) -> dict[str, object]:
    """Return what the hub says; unknown is null, and nothing is raised."""
    from huggingface_hub import constants, get_token

    asked = not constants.HF_HUB_OFFLINE and get_token() is not None
    account, refused = _account() if asked else (None, False)
    return {"account": account, "refused": refused, "template": _has_template(model_id, revision)}


def _account() -> tuple[str | None, bool]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().whoami()["name"]), False
    except HfHubHTTPError as error:
        return None, error.response is not None and error.response.status_code == 401
    except Exception:  # noqa: BLE001 - an unreachable hub is told by the check of the model
        return None, False


def _has_template(model_id: str, revision: str | None) -> bool | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        try:
            path = Path(hf_hub_download(model_id, name, revision=revision))
        except LocalEntryNotFoundError:
            return None
        except EntryNotFoundError:
            continue
        except Exception:  # noqa: BLE001 - whatever is wrong, the check of the model says it better
            return None
        if name != "tokenizer_config.json":
            return True
        return bool(json.loads(path.read_text(encoding="utf-8")).get("chat_template"))
    return False


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2] or None)))
