"""Tools that the demo model is taught to call: their names, questions for them, results to read back."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from demo.facts import CITIES

WEATHERS = ("sunny", "rainy", "cloudy", "windy", "snowy", "foggy")


@dataclass(frozen=True)
class Result:
    """The output of a tool, and the sentence in which the model reports it."""

    content: str
    sentence: str


@dataclass(frozen=True)
class ToolKind:
    """One job for a tool; clients give it different names, descriptions and parameter names."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[tuple[str, ...], ...]
    json_type: str
    phrasings: tuple[str, ...]
    draw_values: Callable[[random.Random], tuple]
    draw_result: Callable[[random.Random, tuple], Result]


def _city(rng: random.Random) -> tuple:
    return (rng.choice(CITIES),)


def _two_numbers(rng: random.Random) -> tuple:
    return rng.randint(0, 20), rng.randint(0, 20)


def _weather_result(rng: random.Random, values: tuple) -> Result:
    city, weather, degrees = values[0], rng.choice(WEATHERS), rng.randint(0, 35)
    forms = (
        json.dumps({"weather": weather, "temperature": degrees}),
        json.dumps({"temperature": degrees, "condition": weather}),
        json.dumps({"city": city, "temperature": degrees, "unit": "celsius", "condition": weather}),
        f"{weather}, {degrees} degrees",
        f"{degrees} degrees and {weather}",
    )
    return Result(rng.choice(forms), f"It is {weather} in {city}, {degrees} degrees.")


def _sum_result(rng: random.Random, values: tuple) -> Result:
    total = sum(values)
    content = json.dumps({rng.choice(("result", "sum")): total})
    return Result(content, f"{values[0]} plus {values[1]} is {total}.")


TOOL_KINDS = (
    ToolKind(
        names=("get_weather", "get_current_weather"),
        descriptions=("", "Get the weather of a city", "Get the current weather in a given location"),
        parameters=(("city",), ("location",)),
        json_type="string",
        phrasings=(
            "What is the weather in {}?", "How is the weather in {} today?", "Tell me the weather in {}.",
            "Is it raining in {}?", "What's the weather like in {}?", "What is the weather like in {} today?",
            "weather in {}",
        ),
        draw_values=_city,
        draw_result=_weather_result,
    ),
    ToolKind(
        names=("add", "add_numbers"),
        descriptions=("", "Add two numbers", "Returns the sum of two integers"),
        parameters=(("a", "b"),),
        json_type="integer",
        phrasings=("What is {} plus {}?", "Add {} and {}.", "How much is {} + {}?", "Compute {} + {}."),
        draw_values=_two_numbers,
        draw_result=_sum_result,
    ),
)  # fmt: skip


def draw_definition(rng: random.Random, kind: ToolKind) -> dict:
    """One tool definition in OpenAI's form, in one of the ways in which clients write it."""
    names = rng.choice(kind.parameters)
    schema = {
        "type": "object",
        "properties": {name: {"type": kind.json_type} for name in names},
        "required": list(names),
    }
    if rng.random() < 0.3:
        schema["additionalProperties"] = False
    function = {"name": rng.choice(kind.names), "parameters": schema}
    if description := rng.choice(kind.descriptions):
        function["description"] = description
    return {"type": "function", "function": function}


def call_of(definition: dict, values: tuple) -> dict:
    """The call of the tool with these values, as the assistant's message holds it."""
    function = definition["function"]
    arguments = dict(zip(function["parameters"]["required"], values, strict=True))
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
