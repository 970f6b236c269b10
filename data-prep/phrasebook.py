"""German-English sentences, drawn at random from templates; grammatical in both languages, and saying the same.

Numbers come from num2words; dates, times of day, durations, amounts of money, units, weekdays, months, countries and
languages from Unicode CLDR through Babel. The two languages order their words differently (German ends a clause with
its verb, puts the time first and the units before the tens), so that a translation model has to look across the
sentence.

``Text`` throughout is a pair: the German and the English wording of the same thing.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from babel import Locale
from babel.dates import format_date, format_skeleton, format_time, format_timedelta
from babel.languages import get_official_languages
from babel.numbers import format_currency
from babel.units import format_unit
from num2words import num2words

Text = tuple[str, str]

DE, EN = Locale("de"), Locale("en")
FIRST, THIRD, PLURAL = 0, 1, 2  # person and number of a subject: I, he or she, we or they


@dataclass(frozen=True)
class Subject:
    """A subject: its name, its form of the verb, and the pronoun that takes it up again."""

    de: str
    en: str
    form: int
    pronoun: Text


def _subjects() -> list[Subject]:
    he, she, they = ("er", "he"), ("sie", "she"), ("sie", "they")
    singular = [
        *(("er", "he", he), ("sie", "she", she), ("Paul", "Paul", he), ("Felix", "Felix", he), ("Jonas", "Jonas", he)),
        *(("Anna", "Anna", she), ("Clara", "Clara", she), ("Maria", "Maria", she), ("mein Bruder", "my brother", he)),
        *(("meine Schwester", "my sister", she), ("sein Onkel", "his uncle", he), ("ihre Tante", "her aunt", she)),
        *(("der Lehrer", "the teacher", he), ("die Ärztin", "the doctor", she), ("der Student", "the student", he)),
        *(("die Nachbarin", "the neighbor", she), ("unser Freund", "our friend", he), ("die Köchin", "the cook", she)),
    ]
    plural = [("meine Eltern", "my parents"), ("die Kinder", "the children"), ("seine Freunde", "his friends")]
    return [
        Subject("ich", "I", FIRST, ("ich", "I")),
        Subject("wir", "we", PLURAL, ("wir", "we")),
        *(Subject(de, en, THIRD, pronoun) for de, en, pronoun in singular),
        *(Subject(de, en, PLURAL, they) for de, en in plural),
    ]


SUBJECTS = _subjects()

ACCUSATIVE = [
    *(("meinen Bruder", "my brother"), ("meine Schwester", "my sister"), ("den Lehrer", "the teacher")),
    *(("die Ärztin", "the doctor"), ("Anna", "Anna"), ("Paul", "Paul"), ("Maria", "Maria"), ("Jonas", "Jonas")),
    *(("seinen Onkel", "his uncle"), ("ihre Tante", "her aunt"), ("die Nachbarin", "the neighbor")),
]
DATIVE = [
    *(("meinem Bruder", "my brother"), ("meiner Schwester", "my sister"), ("dem Lehrer", "the teacher")),
    *(("der Ärztin", "the doctor"), ("Anna", "Anna"), ("Paul", "Paul"), ("Maria", "Maria"), ("Jonas", "Jonas")),
    *(("seinem Onkel", "his uncle"), ("ihrer Tante", "her aunt"), ("der Nachbarin", "the neighbor")),
]
# Gender, German noun, English noun: things to buy, singular.
THINGS = [
    *(("m", "Tisch", "table"), ("f", "Lampe", "lamp"), ("n", "Fahrrad", "bicycle"), ("m", "Mantel", "coat")),
    *(("n", "Klavier", "piano"), ("f", "Uhr", "watch"), ("m", "Computer", "computer"), ("n", "Buch", "book")),
    *(("m", "Koffer", "suitcase"), ("f", "Kamera", "camera"), ("n", "Bild", "picture"), ("m", "Teppich", "carpet")),
    *(("f", "Gitarre", "guitar"), ("n", "Sofa", "sofa"), ("m", "Schrank", "cupboard"), ("f", "Tasche", "bag")),
]
MANY = [
    *(("Stühle", "chairs"), ("Bücher", "books"), ("Äpfel", "apples"), ("Briefe", "letters"), ("Fotos", "photos")),
    *(("Flaschen", "bottles"), ("Eier", "eggs"), ("Bäume", "trees"), ("Gläser", "glasses"), ("Karten", "cards")),
]
DRINKS = [("Wasser", "water"), ("Tee", "tea"), ("Milch", "milk"), ("Saft", "juice"), ("Kaffee", "coffee")]
VEHICLES = [("dem Zug", "train"), ("dem Bus", "bus"), ("dem Auto", "car"), ("dem Schiff", "ship")]
DEFINITE = {"m": "der", "f": "die", "n": "das"}
INDEFINITE = {"m": "einen", "f": "eine", "n": "ein"}  # accusative

# Countries whose names take no article in either language, and "in" and "nach" in German.
COUNTRY_CODES = (
    "DE FR IT ES PT GR PL DK SE NO FI AT BE HU CZ IE EE LV LT HR SI RS BG RO LU AL RU GE AM JO IN CN JP KR TH VN LA MY "
    "ID NP BD PK KZ UZ AU NZ CA MX CO VE PE BO CL AR BR UY PY EC PA CR HN GT EG LY TN DZ MA ET KE TZ UG GH NG AO NA ZM "
    "ZW MZ RW CM TW QA KW"
).split()
LANGUAGE_CODES = (
    "de en fr it es pt el pl da sv fi hu cs is et lv lt hr sl sr bg ro mt sq ru uk ka hy he ar fa hi bn ur ta te th vi "
    "lo ms id ne zh ja ko mn kk uz tr az ku ps sw am yo zu af nl ca eu cy ga la eo mk"
).split()
COUNTRIES: list[Text] = [(DE.territories[code], EN.territories[code]) for code in COUNTRY_CODES]
LANGUAGES: list[Text] = [(DE.languages[code], EN.languages[code]) for code in LANGUAGE_CODES]
# Those that German declines like an adjective: "aus dem Französischen ins Japanische".
DECLINED = [(de, en) for de, en in LANGUAGES if de.endswith("isch") or de == "Deutsch"]
SPOKEN = [
    ((DE.territories[land], EN.territories[land]), (DE.languages[code], EN.languages[code]))
    for land in COUNTRY_CODES
    for code in get_official_languages(land)
    if code in LANGUAGE_CODES
]
WEEKDAYS: list[Text] = [(DE.days["format"]["wide"][i], EN.days["format"]["wide"][i]) for i in range(7)]
MONTHS: list[Text] = [(DE.months["format"]["wide"][i], EN.months["format"]["wide"][i]) for i in range(1, 13)]
PARTS_OF_DAY = [("morgen", "morning"), ("nachmittag", "afternoon"), ("abend", "evening")]


@dataclass(frozen=True)
class Verb:
    """A verb that means the same in both languages.

    Attributes:
        present: German, for I, he or she, we or they; without the particle.
        infinitive: German, without the particle.
        participle: German, whole.
        auxiliary: of the German perfect, ``haben`` or ``sein``.
        english: base form, third person, past.
        particle: German, the separable part.
    """

    present: tuple[str, str, str]
    infinitive: str
    participle: str
    auxiliary: str
    english: tuple[str, str, str]
    particle: str = ""

    @property
    def whole(self) -> str:
        """The infinitive with its particle."""
        return self.particle + self.infinitive

    @property
    def with_zu(self) -> str:
        """The infinitive with "zu", which goes between a particle and the verb."""
        return f"{self.particle}zu{self.infinitive}" if self.particle else f"zu {self.infinitive}"


def _verb(present: str, participle: str, english: str, auxiliary: str = "haben", particle: str = "") -> Verb:
    first, third, plural = present.split()
    base, third_en, past = english.split("/")
    return Verb((first, third, plural), plural, participle, auxiliary, (base, third_en, past), particle)


FORMS = {  # of auxiliaries and modals: I, he or she, we or they
    "haben": ("habe", "hat", "haben"),
    "sein": ("bin", "ist", "sind"),
    "werden": ("werde", "wird", "werden"),
}
MODALS = [
    (("muss", "muss", "müssen"), ("have to", "has to", "have to")),
    (("kann", "kann", "können"), ("can", "can", "can")),
    (("will", "will", "wollen"), ("want to", "wants to", "want to")),
    (("soll", "soll", "sollen"), ("am supposed to", "is supposed to", "are supposed to")),
    (("möchte", "möchte", "möchten"), ("would like to", "would like to", "would like to")),
]
BE = ("am", "is", "are")
THAT = [
    *(("ich weiß, dass", "I know that"), ("ich glaube, dass", "I think that"), ("wir hoffen, dass", "we hope that")),
    *(("niemand weiß, dass", "nobody knows that"), ("Emil sagt, dass", "Emil says that")),
    *(("es ist schön, dass", "it is nice that"), ("er hat gehört, dass", "he heard that")),
    *(("ich frage mich, ob", "I wonder whether"), ("sie hat vergessen, dass", "she forgot that")),
]
BECAUSE = [
    (("bleibe", "bleibt", "bleiben"), "zu Hause", BE, "staying at home"),
    (FORMS["sein"], "müde", BE, "tired"),
    (FORMS["sein"], "glücklich", BE, "happy"),
    (FORMS["haben"], "keine Zeit", ("have", "has", "have"), "no time"),
]
TRYING = [
    (("versuche", "versucht", "versuchen"), "", ("am trying", "is trying", "are trying")),
    (FORMS["haben"], " vor", ("plan", "plans", "plan")),
    (FORMS["haben"], " vergessen", ("forgot", "forgot", "forgot")),
]


@cache
def words(number: int, kind: str = "cardinal") -> Text:
    """A number spelled out; ``kind`` as num2words names it: cardinal, ordinal or year."""
    return num2words(number, lang="de", to=kind), num2words(number, lang="en", to=kind)


def spaced(text: str) -> str:
    """CLDR's no-break spaces as plain ones."""
    return " ".join(text.split())


def join(*parts: str) -> str:
    """The parts that are not empty, with a space between them."""
    return " ".join(part for part in parts if part)


def sentence(de: str, en: str, end: str = ".") -> Text:
    """Both wordings with a capital letter and a full stop."""
    return de[0].upper() + de[1:] + end, en[0].upper() + en[1:] + end


@dataclass(frozen=True)
class Action:
    """What somebody does, without who and when.

    Attributes:
        verb: its verb.
        de: what stands before the verb at the end of a German clause.
        en: what follows the English verb.
        grain: how exact a time goes with it: ``clock``, ``day`` or ``year``.
    """

    verb: Verb
    de: str
    en: str
    grain: str = "day"


class Phrasebook:
    """Draws sentences.

    :param rng: the only source of chance; only its methods that give the same on every platform are used.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._frames: list[Callable[[], Text]] = [
            # Those that can say the most, most often.
            *[self.perfect] * 5,
            *[self.time_first] * 4,
            *[self.present] * 3,
            *[self.modal] * 4,
            *[self.future] * 3,
            *[self.that_clause] * 6,
            *[self.because] * 4,
            *[self.trying] * 3,
            *[self.relative] * 3,
            *[self.question] * 3,
            *[self.sum] * 2,
            *[self.fact] * 5,
        ]

    def draw(self) -> Text:
        """One sentence in German and English."""
        return self.rng.choice(self._frames)()

    def chance(self, share: float) -> bool:
        """True in that share of the cases."""
        return self.rng.random() < share

    # ---- things to say -----------------------------------------------------------------------------------------------

    def number(self, low: int, high: int) -> int:
        """A number that German can put before a plural: not one, nor a hundred and one."""
        while True:
            number = self.rng.randint(low, high)
            if number % 100 != 1:
                return number

    def unit(self, name: str, low: int, high: int, *, spelled: float = 0.5, fractions: bool = False) -> Text:
        """An amount of a unit of CLDR, in digits or words: "12,5 Kilometer", "zwölf Kilometer"."""
        number = self.number(low, high)
        if fractions and self.chance(0.3):
            tenths = number + self.rng.randint(1, 9) / 10
            return spaced(format_unit(tenths, name, locale=DE)), spaced(format_unit(tenths, name, locale=EN))
        return self._spell(number, format_unit(number, name, locale=DE), format_unit(number, name, locale=EN), spelled)

    def _spell(self, number: int, de: str, en: str, share: float) -> Text:
        de, en = spaced(de), spaced(en)
        if number < 1000 and self.chance(share):
            in_words = words(number)
            return de.replace(str(number), in_words[0]), en.replace(str(number), in_words[1])
        return de, en

    def duration(self, *units: str) -> Text:
        """How long: "drei Stunden"."""
        unit = self.rng.choice(units or ("minute", "hour", "day", "week"))
        high = {"minute": 59, "hour": 12, "day": 20, "week": 9, "month": 11, "year": 30}[unit]
        return self.unit(f"duration-{unit}", 2, high)

    def money(self) -> Text:
        """An amount of money, as a price tag has it or spelled out."""
        rng = self.rng
        if self.chance(0.4):
            number = words(self.number(2, 999))
            de, en = rng.choice([("Euro", "euros"), ("Dollar", "dollars"), ("Pfund", "pounds"), ("Yen", "yen")])
            return f"{number[0]} {de}", f"{number[1]} {en}"
        amount = (
            rng.randint(1, 40) * 50 + rng.choice([0, 0, 50, 99]) / 100
            if self.chance(0.3)
            else (rng.randint(2, 99) + rng.choice([0, 20, 50, 75, 95, 99]) / 100)
        )
        currency = rng.choice(["EUR", "EUR", "USD", "GBP"])
        return spaced(format_currency(amount, currency, locale=DE)), spaced(
            format_currency(amount, currency, locale=EN)
        )

    def thing(self) -> Text:
        """Something to buy, accusative: one thing or a number of them."""
        if self.chance(0.6):
            gender, de, en = self.rng.choice(THINGS)
            return f"{INDEFINITE[gender]} {de}", f"a {en}"
        number, (de, en) = words(self.number(2, 99)), self.rng.choice(MANY)
        return f"{number[0]} {de}", f"{number[1]} {en}"

    # ---- when --------------------------------------------------------------------------------------------------------

    def date(self, years: tuple[int, int]) -> Text:
        """A day: "am 21. März 2019", with or without its year or weekday."""
        rng = self.rng
        day = datetime.date(rng.randint(*years), rng.randint(1, 12), rng.randint(1, 28))
        kind = rng.randrange(4)
        if kind == 0:
            return f"am {format_date(day, 'long', DE)}", f"on {format_date(day, 'long', EN)}"
        plain = format_skeleton("MMMMd", day, locale=DE), format_skeleton("MMMMd", day, locale=EN)
        if kind == 1:
            weekday = format_date(day, "EEEE", DE), format_date(day, "EEEE", EN)
            return f"am {weekday[0]}, dem {plain[0]}", f"on {weekday[1]}, {plain[1]}"
        return f"am {plain[0]}", f"on {plain[1]}"

    def clock(self) -> Text:
        """A time of day without preposition: "15:45 Uhr", "halb vier"."""
        rng = self.rng
        if self.chance(0.4):
            time = datetime.time(rng.randint(0, 23), 5 * rng.randrange(12))
            return f"{format_time(time, 'short', locale=DE)} Uhr", spaced(format_time(time, "short", locale=EN))
        hour = rng.randint(1, 12)
        now, following = words(hour), words(hour % 12 + 1)
        kind = rng.randrange(5)
        if kind == 0:
            return f"{now[0].removesuffix('s') if hour == 1 else now[0]} Uhr", f"{now[1]} o'clock"
        if kind == 1:
            return f"halb {following[0]}", f"half past {now[1]}"
        part = rng.choice([("Viertel", "a quarter"), ("fünf", "five"), ("zehn", "ten"), ("zwanzig", "twenty")])
        if kind == 2:
            return f"{part[0]} nach {now[0]}", f"{part[1]} past {now[1]}"
        return f"{part[0]} vor {following[0]}", f"{part[1]} to {following[1]}"

    def _at_clock(self, day: Text) -> Text:
        de, en = self.clock()
        return f"{day[0]} um {de}", f"at {en} {day[1]}"

    def _timedelta(self, sign: int) -> Text:
        """ "vor 3 Tagen" or "in 3 Tagen"."""
        unit, days, high = self.rng.choice([("day", 1, 6), ("week", 7, 3), ("month", 31, 11), ("year", 366, 30)])
        number = self.rng.randint(2, high)
        delta = datetime.timedelta(days=sign * days * number)
        de, en = (
            format_timedelta(delta, granularity=unit, threshold=100, add_direction=True, locale=locale)
            for locale in (DE, EN)
        )
        shown = int("".join(c for c in de if c.isdigit()))
        return self._spell(shown, de, en, 0.5)

    def _named(self, which: Text, *, grain: str) -> Text:
        """ "letzten Montag", "nächstes Jahr"; ``which`` is the stem."""
        stem, en = which
        kinds = [(f"{stem}en Monat", f"{en} month"), (f"{stem}es Jahr", f"{en} year")]
        if grain != "year":
            de_day, en_day = self.rng.choice(WEEKDAYS)
            kinds += [(f"{stem}e Woche", f"{en} week"), *[(f"{stem}en {de_day}", f"{en} {en_day}")] * 2]
        return self.rng.choice(kinds)

    def when(self, grain: str, tense: str) -> Text:
        """An adverbial of time.

        :param grain: ``clock``, ``day`` or ``year``: the finest that makes sense.
        :param tense: ``past``, ``future`` or ``habit``.
        """
        rng = self.rng
        if tense == "habit":
            de_day, en_day = rng.choice(WEEKDAYS)
            day = rng.choice([("jeden Tag", "every day"), *[(f"jeden {de_day}", f"every {en_day}")] * 3])
            if grain == "year":
                return "jedes Jahr", "every year"
            return self._at_clock(day) if grain == "clock" and self.chance(0.6) else day
        past = tense == "past"
        years = (1950, 2024) if past else (2030, 2060)
        stem = ("letzt", "last") if past else ("nächst", "next")
        month = rng.choice(MONTHS)
        if grain == "year":
            year = rng.randint(*years)
            in_words = words(year, "year")
            return rng.choice(
                [
                    (f"im Jahr {year}", f"in {year}"),
                    (f"im Jahr {in_words[0]}", f"in {in_words[1]}"),
                    (f"im {month[0]} {year}", f"in {month[1]} {year}"),
                    self._named(stem, grain=grain),
                ]
            )
        de_day, en_day = rng.choice(WEEKDAYS)
        de_part, en_part = rng.choice(PARTS_OF_DAY)
        days = [
            ("gestern", "yesterday") if past else ("morgen", "tomorrow"),
            self._named(stem, grain=grain),
            self._timedelta(-1 if past else 1),
            (f"im {month[0]}", f"in {month[1]}"),
            *[self.date(years)] * 2,
            *[(f"am {de_day}{de_part}", f"on {en_day} {en_part}")] * 2,
        ]
        exact = [days[0], self.date(years), (f"am {de_day}", f"on {en_day}")]
        return self._at_clock(rng.choice(exact)) if grain == "clock" and self.chance(0.5) else rng.choice(days)

    # ---- what --------------------------------------------------------------------------------------------------------

    def action(self) -> Action:
        """Something that somebody can do."""
        return self.rng.choice(ACTIONS)(self)

    def subject(self, action: Action) -> Subject:
        """Somebody who does it, and does not do it to themselves."""
        while True:
            subject = self.rng.choice(SUBJECTS)
            if subject.en not in action.en:
                return subject

    def _english(self, action: Action, form: int, tense: str) -> str:
        base, third, past = action.verb.english
        return past if tense == "past" else third if form == THIRD else base

    def _when(self, action: Action, tense: str, share: float = 0.8) -> Text:
        return self.when(action.grain, tense) if self.chance(share) else ("", "")

    # ---- sentences ---------------------------------------------------------------------------------------------------

    def perfect(self) -> Text:
        """Anna hat gestern einen Tisch gekauft."""
        action = self.action()
        who, when = self.subject(action), self._when(action, "past")
        have = FORMS[action.verb.auxiliary][who.form]
        return sentence(
            join(who.de, have, when[0], action.de, action.verb.participle),
            join(who.en, self._english(action, who.form, "past"), action.en, when[1]),
        )

    def time_first(self) -> Text:
        """Am 21. März hat Anna einen Tisch gekauft."""
        action = self.action()
        who, when = self.subject(action), self.when(action.grain, "past")
        have = FORMS[action.verb.auxiliary][who.form]
        return sentence(
            join(when[0], have, who.de, action.de, action.verb.participle),
            join(f"{when[1]},", who.en, self._english(action, who.form, "past"), action.en),
        )

    def present(self) -> Text:
        """Anna ruft jeden Montag Paul an."""
        action = self.action()
        who, when = self.subject(action), self.when(action.grain, "habit")
        return sentence(
            join(who.de, action.verb.present[who.form], when[0], action.de, action.verb.particle),
            join(who.en, self._english(action, who.form, "present"), action.en, when[1]),
        )

    def modal(self) -> Text:
        """Anna muss morgen einen Tisch kaufen."""
        action = self.action()
        who, when = self.subject(action), self._when(action, "future")
        de, en = self.rng.choice(MODALS)
        return sentence(
            join(who.de, de[who.form], when[0], action.de, action.verb.whole),
            join(who.en, en[who.form], action.verb.english[0], action.en, when[1]),
        )

    def future(self) -> Text:
        """Anna wird morgen einen Tisch kaufen; or the time first."""
        action = self.action()
        who, when = self.subject(action), self.when(action.grain, "future")
        will, verb = FORMS["werden"][who.form], action.verb
        if self.chance(0.5):
            return sentence(
                join(when[0], will, who.de, action.de, verb.whole),
                join(f"{when[1]},", who.en, "will", verb.english[0], action.en),
            )
        return sentence(
            join(who.de, will, when[0], action.de, verb.whole),
            join(who.en, "will", verb.english[0], action.en, when[1]),
        )

    def _clause(self, who: Subject, name: Text, action: Action) -> Text:
        """A subordinate clause, its verbs at the end: "… Anna gestern einen Tisch gekauft hat"."""
        kind = self.rng.randrange(4)
        when = self._when(action, ("past", "past", "future", "habit")[kind], 0.6)
        verb, base = action.verb, action.verb.english[0]
        if kind == 3:
            final, english = verb.particle + verb.present[who.form], self._english(action, who.form, "present")
        elif kind == 2:
            de, en = self.rng.choice([*MODALS, (FORMS["werden"], ("will", "will", "will"))])
            final, english = f"{verb.whole} {de[who.form]}", f"{en[who.form]} {base}"
        else:
            final = f"{verb.participle} {FORMS[verb.auxiliary][who.form]}"
            english = self._english(action, who.form, "past")
        return join(name[0], when[0], action.de, final), join(name[1], english, action.en, when[1])

    def that_clause(self) -> Text:
        """Ich weiß, dass Anna gestern einen Tisch gekauft hat."""
        action = self.action()
        who = self.subject(action)
        start, clause = self.rng.choice(THAT), self._clause(who, (who.de, who.en), action)
        return sentence(f"{start[0]} {clause[0]}", f"{start[1]} {clause[1]}")

    def because(self) -> Text:
        """Anna ist müde, weil sie sieben Stunden gearbeitet hat."""
        action = self.action()
        who = self.subject(action)
        de, what_de, en, what_en = self.rng.choice(BECAUSE)
        clause = self._clause(who, who.pronoun, action)
        return sentence(
            f"{who.de} {de[who.form]} {what_de}, weil {clause[0]}",
            f"{who.en} {en[who.form]} {what_en} because {clause[1]}",
        )

    def trying(self) -> Text:
        """Anna versucht, einen Tisch zu kaufen."""
        action = self.action()
        who = self.subject(action)
        de, rest, en = self.rng.choice(TRYING)
        return sentence(
            f"{who.de} {de[who.form]}{rest}, {join(action.de, action.verb.with_zu)}",
            join(who.en, en[who.form], "to", action.verb.english[0], action.en),
        )

    def relative(self) -> Text:
        """Das ist die Frau, die gestern einen Tisch gekauft hat."""
        noun, pronoun, en = self.rng.choice(
            [
                *(("der Mann", "der", "the man"), ("die Frau", "die", "the woman"), ("das Kind", "das", "the child")),
                *(
                    ("der Junge", "der", "the boy"),
                    ("das Mädchen", "das", "the girl"),
                    ("die Ingenieurin", "die", "the engineer"),
                ),
            ]
        )
        start = self.rng.choice([("das ist", "that is"), ("hier kommt", "here comes")])
        clause = self._clause(Subject("", "", THIRD, ("", "")), (pronoun, "who"), self.action())
        return sentence(f"{start[0]} {noun}, {clause[0]}", f"{start[1]} {en} {clause[1]}")

    def question(self) -> Text:
        """Wann hat Anna einen Tisch gekauft?"""
        action = self.action()
        who, when = self.subject(action), self._when(action, "past")
        have, verb = FORMS[action.verb.auxiliary], action.verb
        kind = self.rng.randrange(4)
        if kind == 0:
            de = join("wer", have[THIRD], when[0], action.de, verb.participle)
            return sentence(de, join("who", verb.english[2], action.en, when[1]), "?")
        if kind == 1:
            de = join("wann", have[who.form], who.de, action.de, verb.participle)
            return sentence(de, join("when did", who.en, verb.english[0], action.en), "?")
        word = ("warum", "why") if kind == 2 else ("", "")
        de = join(word[0], have[who.form], who.de, when[0], action.de, verb.participle)
        return sentence(de, join(word[1], "did", who.en, verb.english[0], action.en, when[1]), "?")

    def sum(self) -> Text:
        """Siebenundzwanzig plus vierzehn ist einundvierzig."""
        a, b = self.rng.randint(2, 99), self.rng.randint(2, 99)
        sign, result = ("plus", a + b) if a <= b or self.chance(0.5) else ("minus", a - b)
        (de_a, en_a), (de_b, en_b), (de_c, en_c) = words(a), words(b), words(result)
        return sentence(f"{de_a} {sign} {de_b} ist {de_c}", f"{en_a} {sign} {en_b} is {en_c}")

    def fact(self) -> Text:
        """A short statement: what time it is, what something costs, how old somebody is …"""
        rng = self.rng
        (land, land_en), (other, other_en) = rng.sample(COUNTRIES, 2)
        gender, noun, noun_en = rng.choice(THINGS)
        the = DEFINITE[gender]
        kind = rng.randrange(14)
        if kind == 0:
            de, en = self.clock()
            return sentence(f"es ist {de}", f"it is {en}")
        if kind in (1, 2):
            de, en = self.money()
            return sentence(f"{the} {noun} kostet {de}", f"the {noun_en} costs {en}")
        if kind == 3:
            de, en = self.unit("mass-kilogram", 2, 90, fractions=True)
            return sentence(f"{the} {noun} wiegt {de}", f"the {noun_en} weighs {en}")
        if kind == 4:
            de, en = self.unit("temperature-celsius", 2, 39)
            return sentence(f"die Temperatur in {land} beträgt {de}", f"the temperature in {land_en} is {en}")
        if kind == 5:
            day = datetime.date(2024, rng.randint(1, 12), rng.randint(1, 28))
            de, en = (format_skeleton("MMMMd", day, locale=locale) for locale in (DE, EN))
            weekday = rng.choice(WEEKDAYS)
            return sentence(f"heute ist {weekday[0]}, der {de}", f"today is {weekday[1]}, {en}")
        if kind == 6:
            (land, land_en), (language, language_en) = rng.choice(SPOKEN)
            return sentence(f"in {land} spricht man {language}", f"in {land_en}, people speak {language_en}")
        if kind == 7:
            de, en = self.unit("length-kilometer", 200, 9999)
            return sentence(f"{land} liegt {de} von {other} entfernt", f"{land_en} is {en} away from {other_en}")
        if kind == 8:
            who = rng.choice([subject for subject in SUBJECTS if subject.form != PLURAL])
            de, en = self.unit("duration-year", 2, 99, spelled=0.7)
            return sentence(
                f"{who.de} {FORMS['sein'][who.form]} {de} alt",
                f"{who.en} {BE[who.form]} {en} old",
            )
        if kind == 9:
            who = rng.choice(SUBJECTS)
            was_de, was_en = ("wurden", "were") if who.form == PLURAL else ("wurde", "was")
            day = datetime.date(rng.randint(1930, 2020), rng.randint(1, 12), rng.randint(1, 28))
            return sentence(
                f"{who.de} {was_de} am {format_date(day, 'long', DE)} in {land} geboren",
                f"{who.en} {was_en} born in {land_en} on {format_date(day, 'long', EN)}",
            )
        if kind == 10:
            first, last = rng.randint(6, 11), rng.randint(13, 22)
            times = [datetime.time(hour, 15 * rng.randrange(4)) for hour in (first, last)]
            opens_de, closes_de = (format_time(time, "short", locale=DE) for time in times)
            opens_en, closes_en = (spaced(format_time(time, "short", locale=EN)) for time in times)
            shop, shop_en = rng.choice([("das Museum", "museum"), ("die Bank", "bank"), ("der Laden", "shop")])
            return sentence(
                f"{shop} ist von {opens_de} bis {closes_de} Uhr geöffnet",
                f"the {shop_en} is open from {opens_en} to {closes_en}",
            )
        if kind == 11:
            page = words(rng.randint(2, 999))
            what = rng.choice([("das Wort", "word"), ("die Antwort", "answer"), ("das Gedicht", "poem")])
            return sentence(f"{what[0]} steht auf Seite {page[0]}", f"the {what[1]} is on page {page[1]}")
        if kind == 12:
            what, (de, en) = (
                rng.choice([("der Film", "movie"), ("das Konzert", "concert")]),
                self.duration("minute", "hour"),
            )
            return sentence(f"{what[0]} dauert {de}", f"the {what[1]} lasts {en}")
        nth = words(rng.randint(2, 99), "ordinal")
        return sentence(f"das ist {the} {nth[0]} {noun}", f"this is the {nth[1]} {noun_en}")


# ---- the verbs, each with what goes with it ------------------------------------------------------------------------

BUY = _verb("kaufe kauft kaufen", "gekauft", "buy/buys/bought")
SELL = _verb("verkaufe verkauft verkaufen", "verkauft", "sell/sells/sold")
PAY = _verb("bezahle bezahlt bezahlen", "bezahlt", "pay/pays/paid")
SAVE = _verb("spare spart sparen", "gespart", "save/saves/saved")
LEND = _verb("leihe leiht leihen", "geliehen", "lend/lends/lent")
TRAVEL = _verb("reise reist reisen", "gereist", "travel/travels/traveled", "sein")
LEARN = _verb("lerne lernt lernen", "gelernt", "learn/learns/learned")
TRANSLATE = _verb("übersetze übersetzt übersetzen", "übersetzt", "translate/translates/translated")
WAIT = _verb("warte wartet warten", "gewartet", "wait/waits/waited")
RUN = _verb("laufe läuft laufen", "gelaufen", "run/runs/ran", "sein")
SWIM = _verb("schwimme schwimmt schwimmen", "geschwommen", "swim/swims/swam", "sein")
DRINK = _verb("trinke trinkt trinken", "getrunken", "drink/drinks/drank")
SLEEP = _verb("schlafe schläft schlafen", "geschlafen", "sleep/sleeps/slept")
CALL = _verb("rufe ruft rufen", "angerufen", "call/calls/called", particle="an")
INVITE = _verb("lade lädt laden", "eingeladen", "invite/invites/invited", particle="ein")
GET_UP = _verb("stehe steht stehen", "aufgestanden", "get up/gets up/got up", "sein", "auf")
ARRIVE = _verb("komme kommt kommen", "angekommen", "arrive/arrives/arrived", "sein", "an")
SEND = _verb("schicke schickt schicken", "geschickt", "send/sends/sent")
WORK = _verb("arbeite arbeitet arbeiten", "gearbeitet", "work/works/worked")
COUNT = _verb("zähle zählt zählen", "gezählt", "count/counts/counted")
READ = _verb("lese liest lesen", "gelesen", "read/reads/read")
MEET = _verb("treffe trifft treffen", "getroffen", "meet/meets/met")
WRITE = _verb("schreibe schreibt schreiben", "geschrieben", "write/writes/wrote")
SPEAK = _verb("spreche spricht sprechen", "gesprochen", "speak/speaks/spoke")


def _trade(verb: Verb) -> Callable[[Phrasebook], Action]:
    def action(book: Phrasebook) -> Action:
        (de, en), (price, price_en) = book.thing(), book.money()
        if book.chance(0.3):
            return Action(verb, de, en)
        return Action(verb, f"{de} für {price}", f"{en} for {price_en}")

    return action


def _pay(book: Phrasebook) -> Action:
    (de, en), (price, price_en) = book.thing(), book.money()
    return Action(PAY, f"{price} für {de}", f"{price_en} for {en}")


def _save(book: Phrasebook) -> Action:
    return Action(SAVE, *book.money())


def _lend(book: Phrasebook) -> Action:
    (de, en), (price, price_en) = book.rng.choice(DATIVE), book.money()
    return Action(LEND, f"{de} {price}", f"{en} {price_en}")


def _travel(book: Phrasebook) -> Action:
    (de, en), (by, by_en) = book.rng.choice(COUNTRIES), book.rng.choice(VEHICLES)
    return Action(TRAVEL, f"mit {by} nach {de}", f"to {en} by {by_en}")


def _learn(book: Phrasebook) -> Action:
    (de, en), (time, time_en) = book.rng.choice(LANGUAGES), book.duration("week", "month")
    return Action(LEARN, f"{time} lang {de}", f"{en} for {time_en}", "year")


def _translate(book: Phrasebook) -> Action:
    (de, en), (into, into_en) = book.rng.sample(DECLINED, 2)
    what, what_en = book.rng.choice([("den Brief", "the letter"), ("das Buch", "the book"), ("den Text", "the text")])
    return Action(TRANSLATE, f"{what} aus dem {de}en ins {into}e", f"{what_en} from {en} into {into_en}")


def _wait(book: Phrasebook) -> Action:
    (who, who_en), (time, time_en) = book.rng.choice(ACCUSATIVE), book.duration("minute", "hour")
    return Action(WAIT, f"{time} auf {who}", f"for {who_en} for {time_en}")


def _run(book: Phrasebook) -> Action:
    return Action(RUN, *book.unit("length-kilometer", 2, 42, fractions=True))


def _swim(book: Phrasebook) -> Action:
    return Action(SWIM, *book.unit("length-meter", 20, 999))


def _drink(book: Phrasebook) -> Action:
    (of, of_en), (amount, amount_en) = book.rng.choice(DRINKS), book.unit("volume-liter", 2, 9, fractions=True)
    return Action(DRINK, f"{amount} {of}", f"{amount_en} of {of_en}")


def _sleep(book: Phrasebook) -> Action:
    time, time_en = book.duration("hour")
    return Action(SLEEP, time, f"for {time_en}")


def _call(book: Phrasebook) -> Action:
    return Action(CALL, *book.rng.choice(ACCUSATIVE), "clock")


def _invite(book: Phrasebook) -> Action:
    de, en = book.rng.choice(ACCUSATIVE)
    to, to_en = book.rng.choice(
        [("zum Essen", "to dinner"), ("ins Kino", "to the movies"), ("zur Party", "to the party")]
    )
    return Action(INVITE, f"{de} {to}", f"{en} {to_en}")


def _get_up(book: Phrasebook) -> Action:
    clock, clock_en = book.clock()
    return Action(GET_UP, f"um {clock}", f"at {clock_en}")


def _arrive(book: Phrasebook) -> Action:
    de, en = book.rng.choice(COUNTRIES)
    return Action(ARRIVE, f"in {de}", f"in {en}", "clock")


def _send(book: Phrasebook) -> Action:
    (de, en), (what, what_en) = book.rng.choice(COUNTRIES), book.thing()
    return Action(SEND, f"{what} nach {de}", f"{what_en} to {en}")


def _work(book: Phrasebook) -> Action:
    (de, en), (time, time_en) = book.rng.choice(COUNTRIES), book.duration("week", "month")
    return Action(WORK, f"{time} in {de}", f"in {en} for {time_en}", "year")


def _count(book: Phrasebook) -> Action:
    number, (de, en) = words(book.number(20, 999)), book.rng.choice(MANY)
    return Action(COUNT, f"{number[0]} {de}", f"{number[1]} {en}")


def _read(book: Phrasebook) -> Action:
    number = book.number(20, 400)
    in_words = words(number) if book.chance(0.5) else (str(number), str(number))
    return Action(READ, f"{in_words[0]} Seiten", f"{in_words[1]} pages")


def _meet(book: Phrasebook) -> Action:
    (who, who_en), (de, en) = book.rng.choice(ACCUSATIVE), book.rng.choice(COUNTRIES)
    return Action(MEET, f"{who} in {de}", f"{who_en} in {en}", "clock")


def _write(book: Phrasebook) -> Action:
    (who, who_en), (de, en) = book.rng.choice(DATIVE), book.rng.choice(LANGUAGES)
    return Action(WRITE, f"{who} einen Brief auf {de}", f"{who_en} a letter in {en}")


def _speak(book: Phrasebook) -> Action:
    (who, who_en), (de, en) = book.rng.choice(DATIVE), book.rng.choice(LANGUAGES)
    return Action(SPEAK, f"mit {who} {de}", f"{en} with {who_en}", "clock")


ACTIONS: list[Callable[[Phrasebook], Action]] = [
    *(_trade(BUY), _trade(SELL), _pay, _save, _lend, _travel, _learn, _translate, _wait, _run, _swim, _drink, _sleep),
    *(_call, _invite, _get_up, _arrive, _send, _work, _count, _read, _meet, _write, _speak),
]
