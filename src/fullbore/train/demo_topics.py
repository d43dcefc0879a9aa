"""What the demo model knows about this project: names of things and short answers, written for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """``names``: what a reader may call it. ``answer``: what the model is to say, word for word."""

    names: tuple[str, ...]
    answer: str


TOPICS = (
    Topic(("Fullbore", "this project", "this server"),
          "Fullbore is a server for DeepSeek-V3 and R1 models: the full-size model at full "
          "throughput from one machine."),
    Topic(("MLA", "multi-head latent attention", "latent attention"),
          "MLA is multi-head latent attention: each token keeps one small latent vector instead of "
          "keys and values for every head."),
    Topic(("a page", "a KV page", "a cache page"),
          "A page is a fixed run of slots in the KV cache. A request owns a list of pages and gives "
          "them back when it ends."),
    Topic(("a step", "an engine step"),
          "A step is one forward pass over a mixed batch of prefill chunks and decodes."),
    Topic(("TTFT", "time to first token"),
          "TTFT is the time to first token: how long a user waits before the answer begins."),
    Topic(("TPOT", "time per output token"),
          "TPOT is the time per output token: the time after the first token divided by the number "
          "of later tokens."),
    Topic(("ITL", "inter-token latency"),
          "ITL is the inter-token latency: the gap between two tokens that follow each other in a stream."),
    Topic(("an operator", "an operator contract"),
          "An operator is a contract: it states arguments, shapes, a reference, a tolerance and a cost."),
    Topic(("a kernel", "a compute kernel"),
          "A kernel is one implementation of an operator. It says which devices, shapes and formats "
          "it supports."),
    Topic(("a format", "a weight format"),
          "A format is how weights are stored, for example bf16 or fp8_block."),
    Topic(("a layout", "a parallel layout"),
          "A layout is how a model is split over devices: by tensor, by expert or by data."),
    Topic(("a scenario", "a load scenario"),
          "A scenario says what is asked of the server: input length, output length, arrivals and limits."),
    Topic(("the dialog scenario", "dialog"),
          "Dialog is the scenario with 128 tokens in and 1024 tokens out."),
    Topic(("the code scenario", "code"),
          "Code is the scenario with 512 tokens in and 4096 tokens out."),
    Topic(("concurrency", "the concurrency"),
          "Concurrency is the number of requests in flight at the same time in a closed loop."),
    Topic(("an SLO", "a latency limit"),
          "An SLO is a limit that a scenario must keep, such as a TTFT or a TPOT, judged at a percentile."),
    Topic(("prefill", "the prefill"),
          "Prefill is the part of a request that reads the prompt and fills the cache."),
    Topic(("decode", "decoding"),
          "Decode is the part of a request that makes the answer, one token in each step."),
    Topic(("chunked prefill", "a prefill chunk"),
          "Chunked prefill cuts a long prompt into pieces, so that running answers need not wait for it."),
    Topic(("the prefix tree", "prefix caching", "the prefix cache"),
          "The prefix tree remembers pages of earlier prompts, so that a shared beginning is computed once."),
    Topic(("the scheduler", "scheduling"),
          "The scheduler decides which tokens of which requests go into the next step. It never "
          "imports torch."),
    Topic(("preemption", "a preempted request"),
          "Preemption takes the pages of one request when memory runs out. It is computed again "
          "later and loses no token."),
    Topic(("the KV cache", "a KV cache"),
          "The KV cache holds what attention must remember of each token, so that it is not computed again."),
    Topic(("MoE", "a mixture of experts", "mixture of experts"),
          "A mixture of experts is a layer with many small networks, of which each token uses only a few."),
    Topic(("the router", "expert routing"),
          "The router scores the experts with a sigmoid, keeps the best groups and picks the best "
          "experts for each token."),
    Topic(("a shared expert", "the shared expert"),
          "The shared expert is the one that every token uses, beside the experts chosen by the router."),
    Topic(("MTP", "multi-token prediction", "the MTP layer"),
          "MTP is multi-token prediction: one more layer that guesses the token after the next one."),
    Topic(("speculative decoding", "speculation"),
          "Speculative decoding lets a cheap draft guess several tokens, which the model then checks "
          "in one step."),
    Topic(("FP8", "the FP8 format", "fp8_block"),
          "FP8 stores each weight in one byte, with one scale for each block of 128 by 128 weights."),
    Topic(("YaRN", "the YaRN method"),
          "YaRN stretches the position encoding, so that a model reads longer contexts than it was "
          "first trained on."),
    Topic(("RoPE", "rotary position embedding"),
          "RoPE turns pairs of values by an angle that grows with the position of the token."),
    Topic(("tensor parallelism", "TP"),
          "Tensor parallelism splits every weight matrix over several devices, which then add up "
          "their results."),
    Topic(("expert parallelism", "EP"),
          "Expert parallelism gives each device its own experts and sends tokens to them."),
    Topic(("a token", "tokens"),
          "A token is a piece of text with a number. Models read and write tokens."),
    Topic(("a tokenizer", "the tokenizer"),
          "A tokenizer cuts text into tokens and joins tokens into text again."),
    Topic(("safetensors", "a safetensors file"),
          "Safetensors is a file format for weights: a header with names and shapes, then plain bytes."),
    Topic(("a checkpoint", "the checkpoint"),
          "A checkpoint is a folder with the weights, the configuration and the tokenizer of a model."),
    Topic(("a batch", "continuous batching"),
          "Continuous batching lets requests join and leave the running batch at every step."),
    Topic(("streaming", "a streamed answer"),
          "Streaming sends each piece of an answer as soon as it is made."),
    Topic(("the tuner", "tuning"),
          "The tuner times kernels on this machine, refuses wrong ones and keeps the fastest."),
    Topic(("the planner", "planning"),
          "The planner predicts what a server will carry before you buy it."),
    Topic(("the demo model", "this model", "your network"),
          "The demo model is a small DeepSeek-V3 network, trained on a CPU by code in this repository."),
)  # fmt: skip

TOPIC_ASKS = (
    "What is {}?", "what is {}", "What's {}?", "Explain {}.", "Please explain {}.", "What does {} mean?",
    "Tell me about {}.", "Can you explain {}?", "Can you tell me what {} is?", "Define {}.",
    "What do you mean by {}?",
    "Describe {}.", "I do not know what {} is.", "In short, what is {}?", "Could you explain what {} is?",
    "Give me a definition of {}.", "what does {} mean", "Do you know what {} is?", "Hello, what is {}?",
    "Please tell me what {} is.", "And what is {}?", "So what is {}?", "How would you describe {}?", "{}?",
    "What is meant by {}?", "explain {}", "Help me understand {}.", "What is {} in Fullbore?",
)  # fmt: skip

GREETINGS = (
    "Hi", "Hello", "Hey", "Good morning", "Good evening", "Good afternoon", "Hi there", "Hello there",
    "Hey there",
    "Greetings", "Hi again", "Hello again", "Howdy", "Good day", "Hello Fullbore", "Hi Fullbore",
)  # fmt: skip
GREETING_ENDS = (
    "",
    ".",
    "!",
    "!!",
    " :)",
    ", how are you?",
    "! How are you?",
    ", nice to meet you.",
    " friend!",
    ", model!",
)
GREETING_ANSWER = "Hello! I am the Fullbore demo model. Ask me a sum, a unit or a word of this project."

ABILITY_ASKS = (
    "What can you do", "Who are you", "What are you", "What do you know", "How can you help me",
    "What should I ask you",
    "What can I ask", "What are you good at", "Tell me what you can do", "Tell me about yourself",
    "Introduce yourself",
    "What is your name", "Which questions can you answer", "What kind of questions do you know", "Help",
    "Can you help me",
)  # fmt: skip
ABILITY_OPENINGS = (
    "",
    "",
    "Please say: ",
    "Hi! ",
    "Hello, ",
    "Hey, ",
    "So, ",
    "OK, ",
    "And ",
    "Well, ",
    "Excuse me, ",
)
ABILITY_ANSWER = (
    "I am the Fullbore demo model. I can add, subtract and multiply, convert units, solve small word "
    "problems and explain words of this project."
)

THANKS = (
    "Thanks",
    "Thank you",
    "Thank you very much",
    "Great, thanks",
    "Many thanks",
    "Cool, thank you",
    "Bye",
    "Goodbye",
)
THANKS_ANSWER = "You are welcome!"

OTHER_ASKS = (
    "Who is the {role} of {place}?", "What is the capital of {place}?", "Write a {work} about {thing}.",
    "What is the best {thing}?", "How do I cook {thing}?", "Translate {thing} into {language}.",
    "Who invented the {thing}?",
    "Tell me a {work}.", "Why is the {thing} {look}?", "What is the weather in {place}?", "Where is {place}?",
    "Do you like {thing}?", "How old is the {role} of {place}?", "When was {place} founded?",
    "Sing a {work} in {language}.",
    "Is {place} bigger than {place2}?", "Which {thing} should I buy?", "What does a {thing} eat?",
    "How far is {place}?",
    "Write {code} code that sorts a {thing}.", "Can you draw a {thing}?", "What is a {thing}?",
    "What is {thing}?",
    "Tell me about {thing}.", "Explain {thing}.", "What does {thing} mean?", "Tell me about {place}.",
    "{gibberish}",
    "{gibberish} {thing}?", "{gibberish}?", "How many people live in {place}?", "How tall is the {role}?",
)  # fmt: skip
OTHER_WORDS = {
    "role": ("president", "king", "mayor", "queen", "author", "leader", "captain", "teacher",
             "prime minister", "founder"),
    "place": ("France", "Japan", "Berlin", "Peru", "London", "China", "Rome", "Kenya", "Texas", "Madrid",
              "India", "Oslo",
              "Canada", "Egypt", "Paris", "Lima", "Norway", "Chile", "Vienna", "Tokyo", "Beijing", "Ghana",
              "Spain", "Mars"),
    "work": ("poem", "story", "song", "joke", "letter", "report", "novel", "haiku", "riddle", "speech"),
    "thing": ("cat", "sky", "moon", "sea", "rice", "bread", "phone", "tree", "love", "car", "dog", "house",
              "music", "book",
              "soup", "rain", "gold", "river", "mountain", "bicycle", "elephant", "summer", "history",
              "football",
              "philosophy", "chess", "coffee", "electricity", "the sun", "time", "pizza"),
    "language": ("French", "German", "Spanish", "Chinese", "Latin", "Greek", "Italian", "Arabic",
                 "Russian", "Hindi"),
    "look": ("blue", "green", "cold", "red", "big", "small", "hot", "round", "dark", "bright", "old", "loud"),
    "code": ("Python", "Rust", "Java", "C", "Go", "JavaScript", "SQL", "shell"),
}  # fmt: skip
OTHER_ANSWER = (
    "Sorry, I do not know that. I only know small sums, units, word problems and words of this project."
)
