"""A typed object out of a text, by a reasoning model: asked for in the prompt, validated, repaired where it is wrong.

Run it with `python -m examples.langchain.extraction`.
"""

from datetime import date
from typing import Literal

from examples._service import service
from pydantic import BaseModel, Field

from kluster_integrations.langchain import ChatKluster

MAIL = """Hello, this is about the invoice.
customer: Grace Hopper
due: 2025-07-31
amount: 1250.50
currency: USD
Please pay in time."""


class Invoice(BaseModel):
    """An invoice that a mail speaks of."""

    customer: str
    due: date = Field(description="The day by which it must be paid")
    amount: float = Field(gt=0)
    currency: Literal["EUR", "USD", "GBP"]


def main() -> None:
    model = ChatKluster(model="deepseek-ai/DeepSeek-R1", max_repairs=2)
    answer = model.with_structured_output(Invoice, include_raw=True).invoke(MAIL)

    invoice = answer["parsed"]
    print("Thought: ", answer["raw"].additional_kwargs.get("reasoning_content", "")[:80])
    print(f"Invoice:  {invoice.customer} owes {invoice.amount:.2f} {invoice.currency}")
    print(f"Due:      {invoice.due:%A, %d %B %Y}")


#: What the emulator answers, without a key.
REPLIES = [
    {
        "reasoning": "The mail has all four fields.",
        "json": {"customer": "Grace Hopper", "due": "2025-07-31", "amount": 1250.5, "currency": "USD"},
    },
]

if __name__ == "__main__":
    with service(*REPLIES):
        main()
