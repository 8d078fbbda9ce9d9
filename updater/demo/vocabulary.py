"""The words of the demo's support tickets: what `updater.demo.tickets` draws from.

Data only. `EVERGREEN` topics are asked about in every month; `ROTATING` ones come up, are the talk
of a month or two and go away again, in this order. A topic is written "queue/topic" and has
phrases that say what is wrong; `{p}` is the product. Written by hand for the demo.
"""

from collections.abc import Mapping, Sequence

EVERGREEN: Mapping[str, Sequence[str]] = {
    "billing/refund": (
        "i want my money back for the {p}",
        "please refund my order of the {p}",
        "where is the refund for the {p} i sent back",
        "you owe me a refund, the {p} never worked",
        "cancelled the {p} but the money is still not returned",
    ),
    "shipping/late": (
        "my {p} has not arrived yet",
        "the parcel with the {p} is two weeks late",
        "still waiting for delivery of the {p}",
        "tracking of my {p} has been stuck since monday",
        "when will the {p} finally be delivered",
    ),
    "account/password": (
        "i forgot my password",
        "the password reset mail never comes",
        "my password is refused when i log in",
        "can't reset the password for the {p} account",
        "locked out after too many wrong passwords",
    ),
}

ROTATING: Mapping[str, Sequence[str]] = {
    "billing/double-charge": (
        "i was charged twice for the {p}",
        "two identical payments for one {p} on my card",
        "the {p} was debited a second time",
        "duplicate charge on my statement for the {p}",
    ),
    "device/battery": (
        "the battery of the {p} is empty after an hour",
        "my {p} does not charge any more",
        "the {p} gets hot and the battery swells",
        "{p} battery drains over night",
    ),
    "app/crash": (
        "the app crashes when i open the {p} page",
        "since the update the app closes by itself",
        "app freezes and quits as soon as the {p} connects",
        "the {p} app shows a white screen and dies",
    ),
    "orders/gift-card": (
        "my gift card is not accepted for the {p}",
        "the voucher code i got for christmas does not work",
        "gift card balance is gone after buying the {p}",
        "how do i redeem a voucher on the {p}",
    ),
    "returns/label": (
        "i need a return label for the {p}",
        "the return label will not print",
        "no label was in the box with the {p}",
        "which label do i stick on the {p} to send it back",
    ),
    "device/noise": (
        "the {p} makes a loud buzzing sound",
        "there is a rattling noise inside the {p}",
        "my {p} whistles and hums all night",
        "clicking sounds whenever the {p} starts",
    ),
    "billing/invoice": (
        "please send an invoice for the {p} to my company",
        "the invoice shows a wrong vat number",
        "i can't download the invoice of the {p}",
        "our accounting needs a corrected invoice for the {p}",
    ),
    "device/wifi": (
        "the {p} loses the wifi every few minutes",
        "my {p} can't find the wireless network",
        "wifi of the {p} is terribly slow",
        "{p} refuses to join my router",
    ),
    "account/email-change": (
        "i want to change the email address of my account",
        "my old email is still used for the {p}",
        "how can i update my mail address",
        "the new email for the {p} is not confirmed",
    ),
    "shipping/damaged": (
        "the {p} arrived broken",
        "the box was crushed and the {p} is scratched",
        "the screen of the {p} was cracked on arrival",
        "my {p} came with a dented case",
    ),
    "app/dark-mode": (
        "dark mode makes the {p} page unreadable",
        "please bring a dark theme to the app",
        "the app stays white although dark mode is on",
        "black text on black background in the {p} settings",
    ),
    "orders/cancel": (
        "please cancel my order of the {p}",
        "i ordered the {p} by mistake, stop it",
        "how do i call off an order that is not sent yet",
        "i no longer want the {p}, cancel it please",
    ),
    "device/firmware": (
        "the firmware update of the {p} stops at 80 percent",
        "my {p} is bricked since the new firmware",
        "how do i roll back the firmware on the {p}",
        "{p} says firmware signature invalid",
    ),
    "loyalty/points": (
        "my bonus points for the {p} are missing",
        "the loyalty points have expired too early",
        "how many points do i get for a {p}",
        "can i pay the {p} with my reward points",
    ),
    "account/two-factor": (
        "the two factor code never arrives by sms",
        "i lost my phone and with it the authenticator",
        "how do i switch off two step verification",
        "second factor is rejected when i log into the {p}",
    ),
    "shipping/address": (
        "i typed the wrong street for the {p}",
        "please send the {p} to my new address",
        "i have moved, change the delivery address",
        "the house number on my {p} order is wrong",
    ),
    "billing/subscription": (
        "i want to end my monthly plan for the {p}",
        "the {p} subscription was renewed without asking me",
        "how do i switch to the yearly plan",
        "pause my {p} membership for the summer",
    ),
    "device/screen": (
        "the display of the {p} flickers",
        "there are green lines on the {p} screen",
        "touch does not react on the {p}",
        "dead pixels in the middle of the {p} panel",
    ),
    "privacy/export": (
        "send me a copy of all data you hold about me",
        "i want to download my personal data of the {p}",
        "gdpr access request for my account",
        "which information does the {p} store about me",
    ),
    "app/language": (
        "the app suddenly speaks german",
        "how do i set the {p} to english",
        "the translation of the {p} menu is wrong",
        "please add spanish to the app",
    ),
    "returns/warranty": (
        "is the {p} still under warranty",
        "the guarantee of my {p} was declined",
        "how long is the warranty on a {p}",
        "i want to register the {p} for the extended guarantee",
    ),
    "orders/preorder": (
        "when does my preorder of the {p} ship",
        "i preordered the {p} and the price fell since",
        "can i still pre-order the {p}",
        "the release date of my preordered {p} moved again",
    ),
    "device/bluetooth": (
        "the {p} does not pair with my phone",
        "bluetooth drops when i walk away from the {p}",
        "my headset can't see the {p}",
        "pairing code of the {p} is not accepted",
    ),
    "store/pickup": (
        "the shop could not find my {p} for pickup",
        "what are the opening hours of the store",
        "may my wife collect the {p} in the shop",
        "the {p} is not ready for collection",
    ),
    "app/passkey": (
        "i can't create a passkey for the app",
        "passkey from my old phone is gone",
        "face id no longer unlocks the {p} app",
        "fingerprint login fails on the {p}",
    ),
    "shipping/customs": (
        "customs want money for my {p}",
        "the {p} is held at the border",
        "which import duty do i pay on the {p}",
        "customs form for the {p} is missing",
    ),
    "device/camera": (
        "the camera of the {p} is blurred",
        "pictures from the {p} are upside down",
        "night video of the {p} is all black",
        "the lens cover of my {p} is stuck",
    ),
    "billing/currency": (
        "i was billed in dollars instead of euros",
        "the exchange rate on the {p} is wrong",
        "can i pay the {p} in swiss francs",
        "my bank took a foreign currency fee",
    ),
    "account/delete": (
        "please delete my account for good",
        "close my profile and erase everything",
        "i do not want to be a customer any longer",
        "remove my {p} login from your system",
    ),
    "orders/bundle": (
        "one part of the {p} bundle is missing",
        "the set with the {p} costs more than its pieces",
        "i only want the {p} out of the bundle",
        "the free item of the {p} set was not in the box",
    ),
    "device/water": (
        "my {p} fell into the pool",
        "is the {p} waterproof",
        "there is moisture behind the glass of the {p}",
        "rain got into the {p}",
    ),
    "voice/assistant": (
        "the voice assistant does not understand me",
        "the {p} answers when nobody called it",
        "hey lumo no longer wakes the {p}",
        "how do i mute the microphone of the {p}",
    ),
    "loyalty/referral": (
        "my friend bought a {p} and i got no bonus",
        "the invite link shows an error",
        "where do i see whom i have recommended",
        "referral reward for the {p} is not paid out",
    ),
    "smart-home/scenes": (
        "the evening scene does not switch the {p} on",
        "my automation runs at the wrong time",
        "how do i add the {p} to a routine",
        "the sunset rule ignores the {p}",
    ),
    "energy/report": (
        "the energy report of the {p} is empty",
        "why does the {p} use so many kilowatt hours",
        "the consumption chart shows last year",
        "my solar yield is not counted for the {p}",
    ),
    "repair/appointment": (
        "the technician for the {p} did not show up",
        "i want to move my repair appointment",
        "when is the next free slot to fix the {p}",
        "nobody called me about the {p} repair visit",
    ),
}

# In the order of their launch; a product is sold for some months and then fades away.
PRODUCTS: Sequence[str] = (
    "lumo speaker", "aria phone", "nova tablet", "pico watch", "volt charger", "terra router",
    "echo lamp", "zephyr fan", "orbit camera", "quill reader", "prism monitor", "delta drone",
    "mira mirror", "onyx laptop", "sola panel", "tempo bike", "vega projector", "brio kettle",
    "koda doorbell", "fjord freezer", "halo ring", "ivory toothbrush", "jade soundbar",
    "kite scale",
)  # fmt: skip

OPENERS: Sequence[str] = (
    "", "", "", "hi, ", "hello, ", "good morning, ", "hey there, ", "dear team, ", "sorry to ask: ",
    "urgent! ", "second mail: ", "as told on the phone, ",
)  # fmt: skip

CLOSERS: Sequence[str] = (
    "", "", "", ", thanks", ", please help", ", what now", ", this is annoying", ", regards",
    ", call me back", ", i bought it last week", ", it is for my mother", ", third time this year",
)  # fmt: skip

# Words that a writer may put for each other; the first is the one that the phrases use.
SYNONYMS: Sequence[Sequence[str]] = (
    ("my", "my", "our", "this", "the"),
    ("please", "please", "pls", "kindly", "could you"),
    ("want", "want", "need", "would like", "wish"),
    ("can't", "can't", "cannot", "am unable to", "could not"),
    ("how do i", "how do i", "how can i", "what must i do to", "tell me how i"),
    ("when", "when", "on which day", "at what time"),
    ("is gone", "is gone", "has vanished", "disappeared", "is nowhere"),
    ("missing", "missing", "not there", "absent", "lost"),
    ("wrong", "wrong", "incorrect", "not right", "mistaken"),
    ("broken", "broken", "in pieces", "smashed", "damaged"),
    ("new", "new", "latest", "recent"),
    ("money", "money", "payment", "cash"),
    ("arrived", "arrived", "reached me", "come", "turned up"),
    ("loud", "loud", "strange", "awful", "constant"),
    ("stops", "stops", "hangs", "fails", "gives up"),
    ("empty", "empty", "blank", "flat"),
    ("suddenly", "suddenly", "since yesterday", "all at once", "out of nowhere"),
    ("app", "app", "application", "mobile app"),
    ("account", "account", "profile", "user account"),
    ("send", "send", "mail", "forward"),
)
