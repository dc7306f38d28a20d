"""True text of many languages is never taken for misread text; what was misread is, wherever it is cut."""

from __future__ import annotations

import random

import pytest

from cllm_cli.text.misread import MOST, Misread

UNDEFINED = b"\x81\x8d\x8f\x90\x9d"
"""Bytes that Windows-1252 does not have; browsers keep them."""

TRUE = {
    "French": "« Déjà l’été », dit-elle à Noël : où ça ? Cœur, maïs, aiguë… L’HAŸ-LES-ROSES, À ÉTÉ",
    "French quotes": "«\xa0un café\xa0», «\xa0là-bas, à Orléans, l’été\xa0», voilà\xa0— dit-il\xa0– à\xa0€ et à\xa0½",
    "French capitals": "LIBERTÉ… «\xa0LIBERTÉ\xa0», FORÊT, ÎLE, “BEAUTÉ”, NESCAFÉ®, CAFÉ™, THÉ²",
    "Portuguese": "São João não dá atenção à irmã; amanhã, maçã, órfã… coração, lições",
    "Portuguese capitals": "NÃO! IRMÃ, AMANHÃ… “MAÇÃ”, «ÓRFÃ\xbb, ROMÃ – LÃ— ANÃ’ ATENÇÃO, CAMPEÕES, LÂMPADA",
    "German": "„Spaß“, „groß“, ‚Fuß‘, »Gruß«, Maß², Straße… ÜBER ÄRGER, GRÖSSE, Öl",
    "Spanish": "¿Qué? ¡Olé! El niño: «España», “así”, 1.º, 2.ª, ESPAÑA… AÑO, BOGOTÁ»",
    "Czech": "Příliš žluťoučký kůň úpěl. „Úšklebek“, VÝŠKA, NÍŽE, TÉŽ, PÍŠE, BLÍŽE, ČÍŠE",
    "Slovak": "Úžitok, výška, ÚŽASNÝ, MÔŽE, MÔŽEŠ, ÚŠKRN, kôň",
    "Polish": "Zażółć gęślą jaźń, „DŁOŃ”, ŁÓDŹ, ŹRÓDŁO, KRÓL…",
    "Turkish": "İstanbul’da çığlık, ŞÖFÖR, ÜÇ…, GÜZEL, “GÜL”, ağaç, ÖĞRENCİ",
    "Vietnamese": "Tiếng Việt: Ân, ÂM, ĐẦU, CÂU…, “XÔ, “CẢ Ê”, Ấn Độ, MÃ–MÃ, ĐÃ”",
    "Romanian": "Între câini, COBORÂ… COBORÎ…, “ÎN”, pâine, ROMÂNĂ",
    "Swedish": "Ångström, “SÅ”, SITÄ…, ÖVER, Ä–Ö, blåbär",
    "Icelandic": "Það með\xa0» Ísland, ÞÚ…, “ÆÐ”, ðí",
    "Dutch": "coëfficiënt, België, één, à € 5, à\xa0€\xa05, „BELGIË”",
    "of letters": "the letter “Ã”, ‘Â’, «Ã», «\xa0Â\xa0», Ä’s and é’s",
    "Chinese": "你好，世界。“我的”……《书》",
    "Russian": "Привет, «мир» — „это“…",
    "Arabic": "مرحبا بالعالم، «نعم»",
    "emoji": "🎈😀👍🏽 ™ ® © “ok”…",
}

MISREAD = [
    *["café", "déjà vu", "l’été – “oui”…", "über", "Ünder", "Straße", "año", "¿Qué?", "maçã", "città", "België"],
    *["Zażółć gęślą jaźń", "Příliš žluťoučký", "çığlık ağaç", "Tiếng Việt", "Ångström", "naïve", "5 €", "§ 1", "«oui»"],
    *["你好", "我的世界", "日本語", "한국어", "مرحبا", "Привет", "Αθήνα", "שלום", "🎈", "ok 👍🏽", "€", "™", "—"],
]


def windows(text):
    return "".join(chr(byte) if byte in UNDEFINED else bytes([byte]).decode("cp1252") for byte in text.encode())


def looked_at(text, size=1 << 20):
    found, data = Misread(), text.encode() if isinstance(text, str) else text
    for start in range(0, len(data), size):
        found.push(data[start : start + size])
    found.end()
    return found.count, found.first


@pytest.mark.parametrize("language", TRUE)
def test_true_text(language):
    assert looked_at(TRUE[language])[0] == 0


@pytest.mark.parametrize("text", MISREAD)
@pytest.mark.parametrize("read", [windows, lambda text: text.encode().decode("latin-1")], ids=["windows", "latin"])
def test_misread_text(text, read):
    before = "Déjà “vu” – voilà\xa0» "
    count, first = looked_at(before + read(text))
    assert count >= 1
    assert looked_at(text)[0] == 0
    # The first place is where a character of the text was, and not before.
    ahead = (before + read(text)).encode()[:first].decode()[len(before) :]
    assert text.startswith(ahead.encode("cp1252" if read is windows else "latin-1").decode())


def test_pieces_make_no_difference():
    rng = random.Random(3)
    parts = [*TRUE.values(), *map(windows, MISREAD), "Ã", "Â", "\xa0", "é", "»", "a", "\n"]
    for _ in range(60):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(1, 12)))
        expected = looked_at(text)
        for size in (1, 2, 3, 7, 23, 24, 25, 90):
            assert looked_at(text, size) == expected


def test_bytes_that_are_no_utf_8_are_apart():
    data = "abcÃ".encode() + b"\xff" + "©def\xe9 Ã©".encode() + b"\xc3"
    assert looked_at(data) == (1, len(data) - 5)


def test_the_search_ends_where_all_of_a_text_is_misread():
    assert looked_at("Ã©" * (3 * MOST))[0] == MOST
