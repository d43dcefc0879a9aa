"""How people put the demo model's sums, units and word problems."""

ADD_ASKS = (
    "What is {} + {}?", "{} + {}", "{} + {} = ?", "What is {} plus {}?", "Add {} and {}.", "{} plus {}?",
    "How much is {} + {}?", "Calculate {} + {}.", "what is {}+{}?", "{}+{}", "What is the sum of {} and {}?",
    "{}+{}=", "Please add {} and {}.", "Compute {} + {}.",
)  # fmt: skip
SUBTRACT_ASKS = (
    "What is {} - {}?", "{} - {}", "{} - {} = ?", "What is {} minus {}?", "{} minus {}?", "{}-{}",
    "How much is {} - {}?", "Calculate {} - {}.", "what is {}-{}?", "{}-{}=", "Compute {} - {}.",
)  # fmt: skip
TAKE_ASKS = ("Subtract {} from {}.", "Take {} from {}.", "Take {} away from {}.")  # what is taken comes first
MULTIPLY_ASKS = (
    "What is {} * {}?", "{} * {}", "{} * {} = ?", "What is {} times {}?", "Multiply {} by {}.", "{} x {}",
    "How much is {} x {}?", "What is {} x {}?", "{} times {}?", "{}*{}", "Calculate {} * {}.", "{}x{}=",
    "What is the product of {} and {}?", "Compute {} * {}.",
)  # fmt: skip
CONVERT_ASKS = (
    "How many {2} are {0} {1}?", "Convert {0} {1} to {2}.", "What is {0} {1} in {2}?", "{0} {1} in {2}",
    "How many {2} are in {0} {1}?", "{0} {1} to {2}?", "How much is {0} {1} in {2}?",
    "Please convert {0} {1} into {2}.", "Express {0} {1} in {2}.",
)  # fmt: skip

ADD_NEXT = ("Now add {}.", "Add {} to that.", "Plus {}?")
SUBTRACT_NEXT = ("Now subtract {}.", "Subtract {} from that.", "Minus {}?")
MULTIPLY_NEXT = ("Now multiply it by {}.", "Multiply that by {}.", "Times {}?")

# larger unit, its short name, smaller unit, its short name, how many of the smaller make one
UNITS = (
    ("kilometres", "km", "metres", "m", 1000),
    ("metres", "m", "centimetres", "cm", 100),
    ("centimetres", "cm", "millimetres", "mm", 10),
    ("kilograms", "kg", "grams", "g", 1000),
    ("tonnes", "t", "kilograms", "kg", 1000),
    ("litres", "l", "millilitres", "ml", 1000),
    ("hours", "h", "minutes", "min", 60),
    ("minutes", "min", "seconds", "s", 60),
    ("days", "d", "hours", "h", 24),
    ("weeks", "weeks", "days", "d", 7),
    ("years", "years", "months", "months", 12),
    ("euros", "euros", "cents", "cents", 100),
)

NAMES = (
    "Anna", "Tom", "Lea", "Ben", "Mia", "Paul", "Emma", "Leo", "Nina", "Max", "Sara", "Jan", "Ida",
    "Omar", "Wei", "Ravi",
)  # fmt: skip
THINGS = (
    "apples", "books", "pens", "marbles", "coins", "stamps", "cards", "eggs", "stones", "shells",
    "balls", "pears",
)  # fmt: skip
HOLDERS = ("boxes", "bags", "baskets", "shelves", "jars", "packs")
# {n}: how many, {other}: a second person
GAINS = ("buys {n} more", "finds {n} more", "gets {n} more from {other}", "wins {n}", "picks {n} more")
LOSSES = ("gives {n} to {other}", "loses {n}", "sells {n}", "gives away {n}", "gives {n} of them to {other}")
CURRENCIES = ("euros", "dollars")

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are the Fullbore demo model.",
    "Answer briefly.",
    "You are a helpful assistant. Be brief.",
)
