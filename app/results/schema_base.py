"""What all models of an answer about results have in common."""

from pydantic import BaseModel, ConfigDict


class Out(BaseModel):
    """Part of an answer: shows the value of the same fields."""

    model_config = ConfigDict(from_attributes=True)
