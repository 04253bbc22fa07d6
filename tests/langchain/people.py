"""What the tests of structured output ask for: a text, and people in every kind of schema; and answers that say so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, v1
from typing_extensions import TypedDict

from tests.raw_server import Reply, sse, whole

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
R1 = "deepseek-ai/DeepSeek-R1"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"  # no tools, and no thoughts

TEXT = """name: Ada Lovelace
born: 1815-12-10
subject: mathematics
city: London
country: England"""


class Subject(str, Enum):  # noqa: UP042 - the form that users have
    MATHEMATICS = "mathematics"
    PHYSICS = "physics"


class Address(BaseModel):
    city: str
    country: str


class Person(BaseModel):
    """A person."""

    name: str
    born: date
    subject: Subject
    address: Address
    nickname: str | None = None


ADA = Person(
    name="Ada Lovelace",
    born=date(1815, 12, 10),
    subject=Subject.MATHEMATICS,
    address=Address(city="London", country="England"),
)


class AddressV1(v1.BaseModel):
    city: str
    country: str


class PersonV1(v1.BaseModel):
    """A person."""

    name: str
    born: date
    subject: Subject
    address: AddressV1
    nickname: str | None = None


class PersonDict(TypedDict):
    """A person."""

    name: Annotated[str, ..., "The full name"]
    subject: Literal["mathematics", "physics"]


@dataclass
class Home:
    city: str


@dataclass
class PersonData:
    """A person."""

    name: str
    born: date
    home: Home


class StrictPerson(BaseModel):
    """A person."""

    model_config = ConfigDict(strict=True, extra="forbid")

    born: date
    subject: Subject


class Renamed(BaseModel):
    """A person."""

    full_name: str = Field(alias="name")


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    """A box."""

    name: T


NAME_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
REF_SCHEMA = {
    "title": "person",
    "description": "A person.",
    "type": "object",
    "properties": {"address": {"$ref": "#/$defs/Address"}},
    "required": ["address"],
    "$defs": {"Address": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
}
FUNCTION = {"name": "person", "description": "A person.", "parameters": NAME_SCHEMA}

KINDS: dict[str, tuple[Any, Any]] = {
    "pydantic": (Person, ADA),
    "pydantic strict": (StrictPerson, StrictPerson(born=date(1815, 12, 10), subject=Subject.MATHEMATICS)),
    "pydantic alias": (Renamed, Renamed(name="Ada Lovelace")),
    "pydantic generic": (Box[str], Box[str](name="Ada Lovelace")),
    "pydantic v1": (PersonV1, PersonV1(**ADA.model_dump())),
    "TypedDict": (PersonDict, {"name": "Ada Lovelace", "subject": "mathematics"}),
    "dataclass": (PersonData, PersonData("Ada Lovelace", date(1815, 12, 10), Home("London"))),
    "JSON schema": ({"title": "person", **NAME_SCHEMA}, {"name": "Ada Lovelace"}),
    "JSON schema with $ref": (REF_SCHEMA, {"address": {"city": "London"}}),
    "function": (FUNCTION, {"name": "Ada Lovelace"}),
    "tool": ({"type": "function", "function": FUNCTION}, {"name": "Ada Lovelace"}),
}


def says(text: str) -> Reply:
    return whole({"content": text})


def texts(*pieces: str) -> Reply:
    return Reply(sse(*({"content": piece} for piece in pieces)))


def calls(arguments: str, name: str = "Person", id_: str = "call-1") -> Reply:
    call = {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return whole({"content": None, "tool_calls": [call]}, finish="tool_calls")


ADA_JSON = ADA.model_dump_json()
