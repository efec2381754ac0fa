"""The HTTP interface: routes, authentication and problems; it knows no kernel."""

from pydantic import BaseModel

# FastAPI makes some fifty models of the OpenAPI document while it is imported, a sixth of the time
# that takes. They are completed when the document is first asked for.
BaseModel.model_config["defer_build"] = True
import fastapi  # noqa: E402

del BaseModel.model_config["defer_build"], fastapi
