"""Finds the assistant's answers in a rendered conversation, by rendering its beginnings.

For chat templates that do not mark it themselves (`{% generation %}`). Standard library only.
"""

from collections.abc import Callable, Container

Render = Callable[[list[dict[str, str]], bool], str]  # with or without the generation prompt at the end
Span = tuple[int, int]


def assistant_spans(
    conversation: list[dict[str, str]], taught: Container[int], render: Render
) -> tuple[str, list[Span]]:
    """The whole text, and the spans of the answers in it that are learnt, with their end marks.

    `taught` are numbers of the assistant's messages. A template may render an earlier answer differently once the
    conversation continues (without its reasoning, for example). Such an answer cannot be located and has no span.
    """
    whole = render(conversation, False)
    found = []
    for number in range(1, len(conversation)):
        if number in taught:
            before, through = render(conversation[:number], True), render(conversation[: number + 1], False)
            if whole.startswith(before) and whole.startswith(through) and len(through) > len(before):
                found.append((len(before), len(before) + len(through[len(before) :].rstrip())))
    return whole, found


def marked(offsets: list[Span], spans: list[Span]) -> list[bool]:
    """Which tokens, given by their offsets in the text, are the assistant's."""
    return [any(start < until and end > since for since, until in spans) for start, end in offsets]
