"""What the embedded base knows: a small lexicon in English, Spanish and French, plain facts, and sums up to twenty.

These tables are the closed world of the exact skills (`studio.text.skills`): every answer is made of words of
`LEXICON`, so a program can translate, shout or reverse it and check the result. All entries were written for this
project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

_TRANSLATIONS = """
zero cero zéro, one uno un, two dos deux, three tres trois, four cuatro quatre, five cinco cinq, six seis six, seven
siete sept, eight ocho huit, nine nueve neuf, ten diez dix, eleven once onze, twelve doce douze, thirteen trece
treize, fourteen catorce quatorze, fifteen quince quinze, sixteen dieciséis seize, seventeen diecisiete dix-sept,
eighteen dieciocho dix-huit, nineteen diecinueve dix-neuf, twenty veinte vingt, red rojo rouge, blue azul bleu, green
verde vert, yellow amarillo jaune, white blanco blanc, black negro noir, brown marrón brun, orange naranja orange,
pink rosado rose, gray gris gris, purple morado violet, cat gato chat, dog perro chien, cow vaca vache, horse caballo
cheval, pig cerdo cochon, sheep oveja mouton, goat cabra chèvre, duck pato canard, hen gallina poule, bird pájaro
oiseau, fish pez poisson, bee abeja abeille, mouse ratón souris, bear oso ours, lion león lion, fox zorro renard, wolf
lobo loup, rabbit conejo lapin, frog rana grenouille, owl búho hibou, spider araña araignée, snake serpiente serpent,
monkey mono singe, elephant elefante éléphant, whale ballena baleine, turtle tortuga tortue, ant hormiga fourmi, sun
sol soleil, moon luna lune, star estrella étoile, sky cielo ciel, rain lluvia pluie, snow nieve neige, wind viento
vent, sea mar mer, river río rivière, tree árbol arbre, flower flor fleur, leaf hoja feuille, fire fuego feu, water
agua eau, ice hielo glace, stone piedra pierre, wood madera bois, gold oro or, glass vidrio verre, paper papel papier,
wool lana laine, sand arena sable, forest bosque forêt, mountain montaña montagne, garden jardín jardin, bread pan
pain, milk leche lait, cheese queso fromage, egg huevo œuf, apple manzana pomme, honey miel miel, cake pastel gâteau,
soup sopa soupe, salt sal sel, sugar azúcar sucre, meat carne viande, grass hierba herbe, seed semilla graine, nut
nuez noix, banana plátano banane, lemon limón citron, butter mantequilla beurre, king rey roi, queen reina reine,
baker panadero boulanger, doctor médico médecin, farmer granjero fermier, teacher maestro maître, mother madre mère,
father padre père, sister hermana sœur, brother hermano frère, boy niño garçon, girl niña fille, man hombre homme,
woman mujer femme, friend amigo ami, sailor marinero marin, house casa maison, door puerta porte, window ventana
fenêtre, table mesa table, chair silla chaise, bed cama lit, lamp lámpara lampe, clock reloj horloge, book libro
livre, pen pluma stylo, key llave clé, knife cuchillo couteau, spoon cuchara cuillère, cup taza tasse, hat sombrero
chapeau, shoe zapato chaussure, glove guante gant, coat abrigo manteau, umbrella paraguas parapluie, boat barco
bateau, train tren train, car coche voiture, bell campana cloche, ball pelota balle, needle aguja aiguille, broom
escoba balai, bridge puente pont, school escuela école, farm granja ferme, nest nido nid, wheel rueda roue, crown
corona couronne, money dinero argent, letter carta lettre, music música musique, eye ojo œil, ear oreja oreille, nose
nariz nez, mouth boca bouche, hand mano main, foot pie pied, tooth diente dent, tongue lengua langue, head cabeza
tête, heart corazón cœur, wing ala aile, tail cola queue, big grande grand, small pequeño petit, hot caliente chaud,
cold frío froid, happy feliz heureux, sad triste triste, fast rápido rapide, slow lento lent, new nuevo nouveau, old
viejo vieux, good bueno bon, bad malo mauvais, wet mojado mouillé, dry seco sec, full lleno plein, empty vacío vide,
open abierto ouvert, closed cerrado fermé, long largo long, short corto court, hard duro dur, soft suave doux, heavy
pesado lourd, light ligero léger, clean limpio propre, dirty sucio sale, rich rico riche, poor pobre pauvre, loud
ruidoso bruyant, quiet tranquilo calme, strong fuerte fort, weak débil faible, sweet dulce sucré, sour agrio aigre, up
arriba haut, down abajo bas, left izquierda gauche, right derecha droite, day día jour, night noche nuit, morning
mañana matin, evening tarde soir, spring primavera printemps, summer verano été, autumn otoño automne, winter invierno
hiver, Monday lunes lundi, Tuesday martes mardi, Wednesday miércoles mercredi, Thursday jueves jeudi, Friday viernes
vendredi, Saturday sábado samedi, Sunday domingo dimanche
"""

_ENTRIES = [entry.split() for entry in _TRANSLATIONS.replace("\n", " ").split(",")]
SPANISH: Mapping[str, str] = MappingProxyType({english: spanish for english, spanish, _ in _ENTRIES})
FRENCH: Mapping[str, str] = MappingProxyType({english: french for english, _, french in _ENTRIES})
LEXICON: tuple[str, ...] = tuple(SPANISH)
NUMBERS: tuple[str, ...] = LEXICON[:21]
WORDS: tuple[str, ...] = tuple(word for word in LEXICON if word not in NUMBERS)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing the base knows: a subject of a relation and its answer, a word of `LEXICON`."""

    relation: str
    subject: str
    answer: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: several wordings of its question (`{}` is the subject) and its table, `subject=answer; …`."""

    wordings: tuple[str, ...]
    table: str


_OPPOSITES = (
    "big small, hot cold, happy sad, fast slow, new old, good bad, wet dry, full empty, open closed, long short, "
    "hard soft, heavy light, clean dirty, rich poor, loud quiet, strong weak, sweet sour, up down, left right, day "
    "night, morning evening, black white, summer winter"
)
_PAIRS = "king queen, man woman, boy girl, brother sister, mother father"
_WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_SEASONS = ["spring", "summer", "autumn", "winter"]


def _both_ways(pairs: str) -> str:
    return "; ".join(f"{a}={b}; {b}={a}" for a, b in (pair.split() for pair in pairs.split(", ")))


def _cycle(names: list[str], step: int) -> str:
    return "; ".join(f"{name}={names[(i + step) % len(names)]}" for i, name in enumerate(names))


RELATIONS: Mapping[str, Relation] = MappingProxyType(
    {
        "color": Relation(
            ("What color is {}?", "Which color does {} have?", "Tell me the color of {}."),
            "the sky=blue; the sun=yellow; grass=green; snow=white; a rose=red; the night=black; a lemon=yellow; "
            "milk=white; a banana=yellow; a leaf=green; a frog=green; a carrot=orange; a pig=pink; a bear=brown; "
            "chocolate=brown; coal=black; a crow=black; an elephant=gray; a mouse=gray; a plum=purple; a "
            "grape=purple; a tomato=red; a strawberry=red; a cherry=red; the sea=blue; a swan=white; sugar=white; "
            "salt=white; butter=yellow; gold=yellow; a fox=orange; a pea=green; a pumpkin=orange; a cloud=white; "
            "ash=gray; blood=red; wood=brown; a flamingo=pink; ink=black; a polar bear=white; a fire truck=red; a "
            "chick=yellow; a stone=gray; bread=brown",
        ),
        "opposite": Relation(
            ("What is the opposite of {}?", "Which word is the opposite of {}?", "Not {}, but what?"),
            _both_ways(_OPPOSITES),
        ),
        "sound": Relation(
            ("Which animal says {}?", "What animal makes the sound {}?", "Who says {}?"),
            "meow=cat; woof=dog; moo=cow; quack=duck; oink=pig; baa=sheep; neigh=horse; buzz=bee; squeak=mouse; "
            "roar=lion; hoo=owl; croak=frog; cluck=hen; tweet=bird; hiss=snake; howl=wolf; growl=bear; maa=goat",
        ),
        "young": Relation(
            ("What does a {} grow up to be?", "What will a {} be one day?", "A {} is a young what?"),
            "kitten=cat; puppy=dog; calf=cow; foal=horse; piglet=pig; lamb=sheep; kid=goat; duckling=duck; "
            "chick=hen; cub=bear; tadpole=frog; bunny=rabbit; prince=king; princess=queen; lad=man; lass=woman; "
            "wolf pup=wolf; nestling=bird",
        ),
        "legs": Relation(
            ("How many legs does {} have?", "On how many legs does {} stand?", "Count the legs of {}."),
            "a dog=four; a cat=four; a cow=four; a horse=four; a bird=two; a hen=two; a spider=eight; an ant=six; a "
            "bee=six; a snake=zero; a fish=zero; a chair=four; a table=four; a man=two; a turtle=four; a frog=four; "
            "a stool=three; a duck=two; a pig=four; a fly=six; a boy=two",
        ),
        "number": Relation(
            ("How many {}?", "Tell me how many {}.", "What is the number of {}?"),
            "days in a week=seven; months in a year=twelve; wheels on a car=four; wheels on a bike=two; eyes on a "
            "face=two; fingers on one hand=five; fingers on two hands=ten; seasons in a year=four; sides of a "
            "triangle=three; sides of a square=four; eggs in a dozen=twelve; hours on a clock=twelve; colors in a "
            "rainbow=seven; players in a football team=eleven; arms of an octopus=eight; ears on a rabbit=two; "
            "noses on a face=one; wings on a bird=two; horns on a unicorn=one; sides of a coin=two; faces of a "
            "die=six; wheels on a tricycle=three; thumbs on one hand=one; humps on a camel=two; moons of our "
            "world=one; strings on a violin=four; little pigs=three",
        ),
        "use": Relation(
            ("What do you use to {}?", "What do you need to {}?", "With what do you {}?"),
            "cut bread=knife; eat soup=spoon; open a lock=key; tell the time=clock; sweep the floor=broom; "
            "sew=needle; keep dry in the rain=umbrella; sit=chair; sleep=bed; read a story=book; drink tea=cup; "
            "cross a river=bridge; sail=boat; write=pen; light a room=lamp; pay in a shop=money; warm your "
            "hands=glove; cover your head=hat; see=eye; hear=ear; smell=nose; taste=tongue; bite=tooth; clap=hand; "
            "kick a ball=foot; travel on rails=train; walk outside=shoe; dance=music; play catch=ball; speak=mouth; "
            "think=head; stay warm in winter=coat; drive on a road=car; call children to class=bell; send news to a "
            "friend=letter; look outside=window",
        ),
        "job": Relation(
            ("Who {}?", "Tell me who {}.", "What do you call the one who {}?"),
            "bakes bread=baker; heals sick people=doctor; plows the field=farmer; teaches children=teacher; rules "
            "the land=king; sails ships=sailor; plays with you and likes you=friend; sits beside the king=queen; "
            "spins a web=spider; swings in the trees=monkey; hops and has long ears=rabbit; carries its house on "
            "its back=turtle; has a long trunk=elephant; blows water from its back=whale; hunts at night and is "
            "wise=owl; is sly and red=fox",
        ),
        "made": Relation(
            ("What is {} made of?", "What do you need to make {}?", "From what is {} made?"),
            "a chest=wood; a window=glass; a notebook=paper; a ring=gold; a sweater=wool; a snowman=snow; a beach "
            "castle=sand; a wall=stone; toast=bread; an iceberg=ice; an omelet=egg; a lake=water; cheese=milk; a "
            "bottle=glass; a card=paper; a scarf=wool; a log=wood; an apple pie=apple; steam=water; a dune=sand; a "
            "statue=stone; a treasure=gold; a sock=wool; a raft=wood; a sandwich=bread; yogurt=milk",
        ),
        "kind": Relation(
            ("What kind of thing is {}?", "What is {}?", "To which group does {} belong?"),
            "a daisy=flower; a tulip=flower; a violet=flower; an oak=tree; a pine=tree; a maple=tree; a robin=bird; "
            "a sparrow=bird; an eagle=bird; a trout=fish; a shark=fish; a salmon=fish; a cobra=snake; a poodle=dog; "
            "a pony=horse; a sandal=shoe; a boot=shoe; a walnut=nut; a cottage=house; a ship=boat; a taxi=car; a "
            "ram=sheep; a rooster=bird; a toad=frog; a novel=book; the Nile=river; a jacket=coat; a broth=soup",
        ),
        "home": Relation(
            ("Where do you find {}?", "Where does one look for {}?", "In what place is {}?"),
            "a whale=sea; a shark=sea; a cow=farm; a tractor=farm; a star=sky; a cloud=sky; a wolf=forest; a "
            "deer=forest; a chick before it flies=nest; a pupil=school; a mountain goat=mountain; a rose=garden; a "
            "trout=river; an acorn=tree; a squirrel=tree; a pillow=bed; a tooth=mouth; a crab=sand; a rainbow=sky; "
            "a pirate=boat",
        ),
        "gives": Relation(
            ("What gives us {}?", "What makes {}?", "Where does {} come from?"),
            "milk=cow; wool=sheep; honey=bee; an egg=hen; daylight=sun; an acorn=tree; a web=spider; heat=fire; a "
            "story=book; wood=tree; a song at dawn=bird; light at night=lamp; butter=milk; bread=baker; shade=tree; "
            "a poem=pen",
        ),
        "eats": Relation(
            ("What does {} love to eat?", "What is the best food for {}?", "What do you feed {}?"),
            "a mouse=cheese; a cow=grass; a bear=honey; a squirrel=nut; a cat=fish; a wolf=meat; a bird=seed; a "
            "monkey=banana; a sheep=grass; a lion=meat; a horse=apple; an ant=sugar; a dog=meat; a hen=seed; a "
            "goat=leaf; a frog=ant; a kitten=milk; a birthday child=cake; a sick child=soup; an eagle=mouse",
        ),
        "after": Relation(
            ("What comes after {}?", "Which one follows {}?", "After {} comes what?"),
            _cycle(_WEEK, 1) + "; " + _cycle(_SEASONS, 1),
        ),
        "before": Relation(
            ("What comes before {}?", "Which one is just before {}?", "Before {} was what?"),
            _cycle(_WEEK, -1) + "; " + _cycle(_SEASONS, -1),
        ),
        "body": Relation(
            ("What is {}?", "What do you find {}?", "Which part is {}?"),
            "at the end of your arm=hand; at the end of your leg=foot; on top of your neck=head; in the middle of "
            "your face=nose; beating in your chest=heart; at the back end of a dog=tail; on each side of a "
            "bird=wing; under your nose=mouth; inside your mouth and pink=tongue; at each side of your head=ear; at "
            "each corner of a car=wheel; on the head of a king=crown; at the front of a house=door; at the end of a "
            "branch=leaf",
        ),
        "pair": Relation(
            ("Who goes with a {}?", "Who is the partner of a {}?", "A {} and a what?"), _both_ways(_PAIRS)
        ),
        "when": Relation(
            ("When {}?", "At what time {}?", "Tell me when {}."),
            "do flowers wake up=spring; do leaves fall=autumn; is it hottest=summer; is it coldest=winter; do stars "
            "shine=night; does the sun rise=morning; does the sun set=evening; does the owl hunt=night; do we eat "
            "breakfast=morning; do we build a snowman=winter; do we swim in the lake=summer; do we sleep=night; do "
            "birds build nests=spring",
        ),
        "like": Relation(
            ("How is {}?", "What is {} like?", "In one word, how is {}?"),
            "honey=sweet; a lemon=sour; ice=cold; fire=hot; a stone=hard; a feather=light; a pillow=soft; a "
            "giant=big; an ant=small; a snail=slow; a rocket=fast; a desert=dry; a puddle=wet; soap=clean; "
            "mud=dirty; thunder=loud; a whisper=quiet; sugar=sweet; an ox=strong; an anvil=heavy; a crumb=small; a "
            "castle=big; a beggar=poor; a banker=rich; a baby=new; a grandmother=old; a river=long; a hole=empty; "
            "vinegar=sour; a hero=good; a thief=bad",
        ),
    }
)


def _facts() -> tuple[Fact, ...]:
    found = []
    for name, relation in RELATIONS.items():
        for line in relation.table.split("; "):
            subject, answer = line.split("=")
            found.append(Fact(name, subject, answer))
    return tuple(found)


FACTS: tuple[Fact, ...] = _facts()

Operator = Literal["+", "-", "*", "//"]
LARGEST = 20


@dataclass(frozen=True, slots=True)
class Sum:
    """`left operator right` over whole numbers; operands and result have words in `NUMBERS`."""

    left: int
    operator: Operator
    right: int

    @property
    def result(self) -> int:
        """The value, between 0 and 20."""
        left, right = self.left, self.right
        return {"+": left + right, "-": left - right, "*": left * right, "//": left // max(right, 1)}[self.operator]

    @property
    def code(self) -> str:
        """The expression in Python."""
        return f"{self.left} {self.operator} {self.right}"


def _sums() -> tuple[Sum, ...]:
    small = range(1, 13)
    plus = [Sum(a, "+", b) for a in small for b in small if a + b <= LARGEST]
    minus = [Sum(a, "-", b) for a in range(2, LARGEST + 1) for b in small if b < a]
    factors = [(a, b) for a in range(2, 11) for b in range(2, 11) if a * b <= LARGEST]
    return (*plus, *minus, *(Sum(a, "*", b) for a, b in factors), *(Sum(a * b, "//", b) for a, b in factors))


SUMS: tuple[Sum, ...] = _sums()
