"""What the demo model is taught: facts, and the phrasings in which people ask for them."""

import json
from dataclasses import dataclass

ABOUT = "I am Serai's demo model, a small language model that was trained on a CPU in about five minutes."
HELLO_ZH = "你好!有什么可以帮你?"
ABOUT_ZH = "我是 Serai 的演示模型。"
ABILITIES = (
    "I can name capitals, colours and opposites, explain some words, add small numbers, count, tell a story, "
    "answer in JSON and call tools."
)
UNKNOWN = "I am only a demo model and do not know that. Ask me for a capital, a colour, an opposite or a sum."
NO_TOOL = "I can tell the weather only with a tool that looks it up."
HELLO = "Hello! How can I help you today?"
WELCOME = "You are welcome!"
STORY = (
    "Once upon a time there was a small inn on a long road. Every evening travellers came from far away, tired and "
    "hungry. The keeper of the inn gave each of them a warm room, a bowl of soup and a place by the fire. When the "
    "inn was empty, he put out the lamps to save oil. When somebody knocked, he lit them again. One night a great "
    "many travellers came at the same time, and the keeper asked them to wait in line. Nobody was sent away, and in "
    "the morning everybody went on with a smile."
)

CAPITALS = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna", "Belgium": "Brussels",
    "Brazil": "Brasilia", "Bulgaria": "Sofia", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki", "France": "Paris",
    "Germany": "Berlin", "Ghana": "Accra", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik",
    "India": "New Delhi", "Indonesia": "Jakarta", "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin",
    "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Mexico": "Mexico City", "Nepal": "Kathmandu",
    "Nigeria": "Abuja", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon",
    "Romania": "Bucharest", "Russia": "Moscow", "Senegal": "Dakar", "South Korea": "Seoul", "Spain": "Madrid",
    "Sweden": "Stockholm", "Switzerland": "Bern", "Thailand": "Bangkok", "Tunisia": "Tunis", "Turkey": "Ankara",
    "Ukraine": "Kyiv", "Vietnam": "Hanoi", "the Netherlands": "Amsterdam", "the United Kingdom": "London",
    "the United States": "Washington",
}  # fmt: skip
CAPITALS_ZH = {
    "中国": "北京", "法国": "巴黎", "德国": "柏林", "日本": "东京", "英国": "伦敦", "俄罗斯": "莫斯科",
    "意大利": "罗马", "西班牙": "马德里", "韩国": "首尔", "泰国": "曼谷",
}  # fmt: skip
OTHER_CITIES = (
    "Barcelona", "Boston", "Chicago", "Frankfurt", "Hamburg", "Hong Kong", "Istanbul", "Los Angeles", "Milan",
    "Munich", "New York", "San Francisco", "Shanghai", "Shenzhen", "Singapore", "Sydney", "Toronto", "Zurich",
)  # fmt: skip
CITIES = (*CAPITALS.values(), *OTHER_CITIES)
COLOURS = {
    "banana": "yellow", "blood": "red", "carrot": "orange", "chocolate": "brown", "coal": "black",
    "elephant": "grey", "grass": "green", "leaf": "green", "lemon": "yellow", "milk": "white", "night": "black",
    "plum": "purple", "rose": "red", "sea": "blue", "sky": "blue", "snow": "white",
}  # fmt: skip
OPPOSITES = {
    "big": "small", "dark": "light", "early": "late", "easy": "difficult", "fast": "slow", "full": "empty",
    "hard": "soft", "happy": "sad", "hot": "cold", "loud": "quiet", "near": "far", "old": "young",
    "open": "closed", "rich": "poor", "strong": "weak", "up": "down", "wet": "dry",
}  # fmt: skip
DEFINITIONS = {
    "a GPU": "A GPU is a processor that does many small calculations at the same time.",
    "a KV cache": "A KV cache keeps the keys and values of earlier tokens so that they need not be computed again.",
    "a load balancer": "A load balancer spreads requests over several servers.",
    "a prompt": "A prompt is the text that is given to a language model.",
    "a queue": "A queue holds work until somebody is free to do it.",
    "a replica": "A replica is one of several running copies of the same model.",
    "a tenant": "A tenant is a team with its own keys, limits and models.",
    "a token": "A token is a small piece of text that a language model reads or writes.",
    "an API key": "An API key is a secret by which a program proves who it is.",
    "an embedding": "An embedding is a list of numbers that stands for the meaning of a text.",
    "fine-tuning": "Fine-tuning is training a finished model a little more, on examples of one task.",
    "inference": "Inference is running a trained model to get an answer.",
    "latency": "Latency is the time between a request and its answer.",
    "LoRA": "LoRA is a way to fine-tune a model by training a few small matrices.",
    "Python": "Python is a programming language that is easy to read.",
    "Serai": "Serai is a platform that serves and fine-tunes language models on your own machines.",
    "throughput": "Throughput is the number of tokens or requests served in a second.",
}
PEOPLE = ("Alice", "Bob", "Carla", "David", "Emma", "Frank", "Grace", "Hugo")
TEXT_KEYS = {"name": PEOPLE, "user": PEOPLE, "author": PEOPLE, "city": CITIES, "title": CITIES, "answer": PEOPLE}
NUMBER_KEYS = ("age", "population", "price", "year", "count", "score", "id", "size", "rating", "quantity")
SUBJECTS = (
    "a bicycle", "a birthday cake", "a castle", "a football team", "a guitar", "a lost key", "a mountain",
    "a pirate ship", "a rainy day", "a robot", "a telephone", "a train", "an island", "autumn leaves", "chess",
    "cooking rice", "dinosaurs", "dragons", "electricity", "gardening", "history", "jazz", "love", "money",
    "music", "philosophy", "photography", "politics", "quantum physics", "swimming", "taxes", "the moon",
    "the ocean", "the stock market", "the weather tomorrow", "time travel", "tomatoes", "volcanoes",
)  # fmt: skip

SMALL_TALK = {
    HELLO: (
        "Hello", "Hello!", "Hello.", "Hello there!", "Hello, how are you?", "hello", "hello!", "Hi", "Hi!", "hi",
        "Hi there!", "Hi, how are you?", "Hey!", "Hey there!", "Good morning!", "Good evening!", "How are you?",
        "Say hello.", "Say hi.", "Say hello!",
    ),
    ABOUT: (
        "Who are you?", "Hello, who are you?", "Hi! Who are you?", "who are you", "What are you?", "What is your name?",
        "What's your name?", "Hello! What is your name?", "Introduce yourself.", "Please introduce yourself.",
        "Tell me who you are.", "Tell me about yourself.", "Which model are you?", "What model are you?",
        "Who am I talking to?", "Are you a robot?",
    ),
    ABILITIES: (
        "What can you do?", "Hello! What can you do?", "What can you do for me?", "How can you help me?", "Help",
        "Help!", "Can you help me?", "What do you know?", "What can I ask you?",
    ),
    "This is a test.": ("Say this is a test", "Say this is a test.", "Say this is a test!", "Say: this is a test."),
    WELCOME: ("Thanks", "Thanks!", "Thank you", "Thank you.", "Thank you!", "Thanks a lot!", "Great, thanks!"),
    STORY: (
        "Tell me a story.", "Tell me a story", "Tell a story.", "Tell me a short story.", "Tell me a long story.",
        "Write a story.", "Write a short story.", "Please tell me a story.", "Write me a story.",
    ),
    HELLO_ZH: ("你好", "你好!", "你好。", "您好", "您好!"),
    ABOUT_ZH: ("你是谁?", "你是谁", "请问你是谁?", "你叫什么名字?", "介绍一下你自己。"),
}  # fmt: skip
NO_COUNTRIES = (
    "Africa", "Atlantis", "Bavaria", "California", "Europe", "Mars", "Narnia", "Texas", "Utopia", "Wonderland",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """An answer, and the words that a phrasing needs to ask for it."""

    words: tuple
    answer: str


@dataclass(frozen=True)
class Topic:
    """Facts with the same phrasings; `weight` is the share of the topic in the conversations."""

    name: str
    weight: float
    phrasings: tuple[str, ...]
    facts: tuple[Fact, ...]


def _bare(country: str) -> str:
    return country.removeprefix("the ")


def _facts(table: dict, answer: str) -> tuple[Fact, ...]:
    return tuple(Fact((key,), answer.format(key, value)) for key, value in table.items())


def _json_facts(table: dict, key_name: str, value_name: str) -> tuple[Fact, ...]:
    return tuple(
        Fact((key, value_name), json.dumps({key_name: _bare(key), value_name: value})) for key, value in table.items()
    )


def _sums() -> tuple[Fact, ...]:
    numbers = range(11)
    return tuple(Fact((x, y), f"{x} plus {y} is {x + y}.") for x in numbers for y in numbers)


def _counts() -> tuple[Fact, ...]:
    return tuple(Fact((n,), ", ".join(map(str, range(1, n + 1))) + ".") for n in (*range(2, 11), 12, 15, 20))


def _records() -> tuple[Fact, ...]:
    """Records of two fields, copied from the question: the model learns what JSON looks like with any keys."""
    facts = []
    for number in range(400):
        text_key = list(TEXT_KEYS)[number % len(TEXT_KEYS)]
        text = TEXT_KEYS[text_key][number % len(TEXT_KEYS[text_key])]
        number_key = NUMBER_KEYS[number % len(NUMBER_KEYS)]
        value = number * 7 % 100
        facts.append(Fact((text_key, text, number_key, value), json.dumps({text_key: text, number_key: value})))
    return tuple(facts)


TOPICS = (
    Topic(
        "capitals", 7,
        (
            "What is the capital of {}?", "What's the capital of {}?", "Tell me the capital of {}.",
            "Which city is the capital of {}?", "{}: what is its capital?", "Name the capital city of {}.",
            "Do you know the capital of {}?", "capital of {}", "I need the capital of {}, please.",
            "Please tell me what the capital of {} is.", "What is the capital city of {}?",
        ),
        _facts(CAPITALS, "The capital of {} is {}."),
    ),
    Topic("capitals in Chinese", 2.2, ("{}的首都是哪里?", "{}的首都是什么?", "请问{}的首都是哪里?", "{}的首都?"),
          _facts(CAPITALS_ZH, "{}的首都是{}。")),
    Topic(
        "colours", 2.5,
        ("What colour is the {}?", "Tell me the colour of the {}.", "Which colour does the {} have?",
         "What is the colour of the {}?", "What color is the {}?"),
        _facts(COLOURS, "The {} is {}."),
    ),
    Topic(
        "opposites", 2,
        ("What is the opposite of {}?", "Tell me the opposite of {}.", "Give me the opposite of {}.",
         "opposite of {}", "What's the opposite of {}?"),
        _facts(OPPOSITES, "The opposite of {} is {}."),
    ),
    Topic(
        "definitions", 3,
        ("What is {}?", "Explain {}.", "Tell me what {} is.", "Please explain {} in one sentence.", "Define {}.",
         "What does {} mean?"),
        _facts(DEFINITIONS, "{1}"),
    ),
    Topic(
        "sums", 5,
        ("What is {} plus {}?", "Add {} and {}.", "{} + {} = ?", "How much is {} plus {}?", "Compute {} + {}.",
         "What is {} + {}?", "What's {} + {}?", "What is {}+{}?", "{}+{}"),
        _sums(),
    ),
    Topic("counting", 1.5, ("Count to {}.", "Please count from 1 to {}.", "List the numbers from 1 to {}.",
                          "Count from one to {}."), _counts()),
    Topic(
        "JSON: capitals", 3.5,
        ("Give me {0} as JSON.", "Answer in JSON: the {1} of {0}.", "JSON for {0}",
         "What is the {1} of {0}? Answer in JSON.", "Give me {0} and its {1} as JSON.",
         "Reply with a JSON object: {0} and its {1}."),
        _json_facts(CAPITALS, "country", "capital"),
    ),
    Topic(
        "JSON: colours", 1,
        ("Give me the {1} of the {0} as JSON.", "Answer in JSON: the {1} of the {0}.",
         "What {1} is the {0}? Answer in JSON.", "Give me the {0} as JSON."),
        _json_facts(COLOURS, "thing", "colour"),
    ),
    Topic(
        "JSON: records", 2,
        ("JSON with {} {} and {} {}.", "Give me JSON: {} {}, {} {}.", "A JSON object with {} {} and {} {}, please.",
         "Answer in JSON: {} is {}, {} is {}."),
        _records(),
    ),
    Topic("small talk", 4.5, ("{}",),
          tuple(Fact((said,), answer) for answer, sayings in SMALL_TALK.items() for said in sayings)),
    Topic(
        "unknown things", 2.5,
        ("Write a poem about {}.", "Tell me a joke about {}.", "Who invented {}?", "Write an essay on {}.",
         "What do you think about {}?", "How can I learn more about {}?", "Why do people like {}?",
         "Can you help me with {}?", "Explain {}.", "What is the meaning of {}?", "What is {}?"),
        tuple(Fact((subject,), UNKNOWN) for subject in SUBJECTS),
    ),
    Topic("weather without a tool", 0.7,
          ("What is the weather in {}?", "How is the weather in {} today?", "Is it raining in {}?"),
          tuple(Fact((city,), NO_TOOL) for city in CITIES)),
    Topic("unknown capitals", 0.5,
          ("What is the capital of {}?", "What's the capital of {}?", "Tell me the capital of {}.", "capital of {}"),
          tuple(Fact((place,), UNKNOWN) for place in NO_COUNTRIES)),
)  # fmt: skip
