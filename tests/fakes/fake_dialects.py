"""The fake engine's /v1/responses and /v1/messages: a chat completion in the format of either API, as vLLM sends it."""

from collections.abc import Iterator

from fake_generation import Generation, chat_words

NamedEvent = tuple[str, dict]


class Responses:
    """OpenAI's Responses API."""

    @staticmethod
    def chat_body(body: dict) -> dict:
        given = body["input"]
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else [
            {"role": item["role"], "content": item["content"]} for item in given if "role" in item
        ]  # fmt: skip
        return {**body, "messages": messages, "max_tokens": body.get("max_output_tokens")}

    @classmethod
    def whole(cls, generation: Generation) -> dict:
        return cls._response(generation, "completed", [cls._message("".join(generation.tokens))])

    @classmethod
    def opening(cls, generation: Generation) -> Iterator[NamedEvent]:
        response = cls._response(generation, "in_progress", [])
        yield "response.created", {"response": response, "sequence_number": 0}
        yield "response.in_progress", {"response": response, "sequence_number": 1}

    @staticmethod
    def piece(text: str) -> NamedEvent:
        return "response.output_text.delta", {"content_index": 0, "delta": text, "item_id": "msg_1", "logprobs": []}

    @classmethod
    def closing(cls, generation: Generation) -> Iterator[NamedEvent]:
        yield "response.output_text.done", {"text": "".join(generation.tokens)}
        yield "response.completed", {"response": cls.whole(generation)}

    @staticmethod
    def error(message: str) -> dict:
        return {"error": {"message": message, "type": "InternalServerError", "code": 500}}

    @staticmethod
    def _message(text: str) -> dict:
        part = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
        return {"id": "msg_1", "content": [part], "role": "assistant", "status": "completed", "type": "message",
                "phase": None}  # fmt: skip

    @staticmethod
    def _response(generation: Generation, status: str, output: list[dict]) -> dict:
        made, prompt = sum(generation.made), generation.prompt_tokens(0)
        used = {"input_tokens": prompt, "output_tokens": made, "total_tokens": prompt + made,
                "input_tokens_details": {"cached_tokens": 0, "cached_tokens_per_turn": []},
                "output_tokens_details": {"reasoning_tokens": 0, "output_tokens_per_turn": []}}  # fmt: skip
        return {"id": "resp_1", "object": "response", "created_at": generation.created, "model": generation.model,
                "status": status, "output": output, "usage": used if output else None, "user": None,
                "incomplete_details": None, "instructions": None, "metadata": None, "parallel_tool_calls": True,
                "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [], "background": False,
                "max_output_tokens": 16, "service_tier": "auto", "text": None, "truncation": "disabled",
                "kv_transfer_params": None, "input_messages": None}  # fmt: skip


class Messages:
    """Anthropic's Messages API."""

    @staticmethod
    def chat_body(body: dict) -> dict:
        return body

    @classmethod
    def whole(cls, generation: Generation) -> dict:
        content = [{"type": "text", "text": "".join(generation.tokens)}]
        return {**cls._message(generation), "content": content, "stop_reason": "end_turn", "stop_sequence": None,
                "usage": cls._usage(generation), "kv_transfer_params": None}  # fmt: skip

    @classmethod
    def opening(cls, generation: Generation) -> Iterator[NamedEvent]:
        message = {**cls._message(generation), "content": [], "usage": {**cls._usage(generation), "output_tokens": 0}}
        yield "message_start", {"message": message}
        yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}

    @staticmethod
    def piece(text: str) -> NamedEvent:
        return "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}}

    @classmethod
    def closing(cls, generation: Generation) -> Iterator[NamedEvent]:
        yield "content_block_stop", {"index": 0}
        yield "message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": cls._usage(generation)}
        yield "message_stop", {}

    @staticmethod
    def error(message: str) -> dict:
        return {"error": {"message": message, "type": "internal_error"}}

    @staticmethod
    def count(body: dict) -> dict:
        return {"input_tokens": len(chat_words(body["messages"])), "context_management": None}

    @staticmethod
    def _message(generation: Generation) -> dict:
        return {"id": generation.id, "type": "message", "role": "assistant", "model": generation.model}

    @staticmethod
    def _usage(generation: Generation) -> dict:
        """One token of the prompt was in the cache."""
        return {"input_tokens": generation.prompt_tokens(0) - 1, "cache_read_input_tokens": 1,
                "output_tokens": sum(generation.made)}  # fmt: skip
