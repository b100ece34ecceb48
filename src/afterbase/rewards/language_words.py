"""Words that give a language away: the small closed classes (articles, pronouns, conjunctions) and a few verbs of every sentence.

One line is one language, each word at least two letters long: a single letter in a thought is most often a variable. A word that several
languages share stands in each of them and its vote is divided. Languages with a script of their own need no words.
"""

from __future__ import annotations

_LATIN = {
    "en": """the of and to in is that it for as was with be by on not he his but at are this have from or had an they which one you were
        all her she there would their we him been has when who will no more if out so said what up its about than into them can only other
        time some could these two may first then do any my now such like our over me even most after also did many must through years where
        much your way well down should because each just those how too here between both under while again being does another why off
        since let therefore thus hence is answer if we get need find equals means wait gives number until don't it's let's i'm can't that's
        isn't won't first second yes okay either however each every without men women change long am""",
    "es": """el la los las de del que en un una unos unas es son por para con no se su sus al lo como más pero le ya este esta estos estas
        sí porque cuando muy sin sobre también me hasta hay donde quien desde todo todos nos durante ellos ella él uno entonces si tenemos
        ser está están fue era tiene así cada hacer puede número respuesta igual ahora luego vamos cuál cuántos cuánto tanto dos tres
        eso esto ese esa nosotros primero después solo otro otra entre""",
    "pt": """o os as um uma uns umas de do da dos das em no na nos nas que é são por para com não se seu sua seus suas ao aos como mais mas
        também já este esta isso isto porque quando muito sem sobre até há onde quem desde tudo ele ela eles elas nós então temos
        ser está foi era tem assim cada pode pelo pela número resposta igual agora depois vamos qual quantos quanto dois três você
        primeiro essa esse à só ou entre nem mesmo""",
    "fr": """le la les un une des de du en et est sont que qui dans pour sur au aux avec ce cette ces ne pas par se sa son ses il
        elle nous vous ils elles on je tu mais ou où donc ni si leur leurs lui comme tout tous même aussi très sans sous être
        avoir fait faut ainsi alors peut chaque nombre réponse égal maintenant puis parce quand quel quelle combien deux trois était
        cela ça c'est d'abord l'on n'est qu'il d'où avons soit ont été entre encore ici après calculons""",
    "de": """der die das den dem des ein eine einen einem einer eines und ist sind war nicht mit auf für von zu zum zur im in an am aus bei
        nach über unter um durch wir sie er es ich du ihr man sich auch als wie aber oder wenn dann dass daß weil denn noch nur so
        schon sehr hat haben wird werden kann können muss müssen also jetzt zuerst damit daher hier alle jede jeder kein keine
        zahl antwort gleich wieviel viele zwei drei beim vom ergibt ihre seine diese dieser dieses was wer""",
    "it": """il lo la gli le un uno una di del della dei delle dello degli da dal dalla in nel nella nei con su sul sulla tra fra che è
        sono non si ma anche più come se suo sua suoi loro noi voi lui lei questo questa questi quello quella quindi perché quando
        dove chi essere ha hanno era ogni molto tutto tutti allora ora poi può deve numero risposta uguale quanti quanto due tre
        abbiamo al alla ai alle ed o dunque così cui ci ne prima dopo solo""",
    "nl": """de het een en van in is op te dat die niet met voor zijn er aan om ook als maar dan door over bij naar uit tot ze hij wij we
        ik je jij hun haar dit deze wat wie waar hoe of want dus nog al wel geen kan kunnen moet moeten heeft hebben wordt worden
        was waren nu eerst omdat elk elke getal antwoord gelijk hoeveel twee drie onze ons zo meer tussen""",
    "sv": """och att det som en ett är av för på med den till i inte om har de vi du han hon jag man var från men så eller när vad
        ska kan måste blir bli också bara efter över under alla varje därför eftersom sedan nu får här där svaret talet lika två tre
        då dem deras vår detta denna dessa mellan utan""",
    "da": """og at det som en et er af for på med den til i ikke om har de vi du han hun jeg man var fra men så eller når hvad
        skal kan må bliver blive også kun efter over under alle hver derfor fordi siden nu får her der svaret tallet lige to tre
        dem deres vores dette denne disse hvor hvis eller mellem uden""",
    "pl": """i w we z ze na do nie to się że jest są był była było jak ale po co tak za od dla ma może przez przy ten ta te tego tej tych
        który która które więc czy już tylko także oraz lub bo gdy kiedy jeśli ponieważ zatem mamy jego jej ich my wy oni każdy
        liczba odpowiedź równa teraz potem ile dwa trzy być mam musimy aby żeby pod nad bez""",
    "cs": """a se na je že to v ve z ze do ne si by jako ale po co tak za od pro má může při ten ta ty který která které takže zda už jen
        také nebo protože když pokud proto máme jeho její jejich my vy oni každý číslo odpověď teď potom kolik dva tři být jsou byl
        byla bylo jsem jsme není musíme aby pod nad bez""",
    "tr": """ve bir bu da de için ile ne gibi daha çok olan olarak var kadar sonra ama en her ya ki mi mı değil o şu biz siz ben sen onlar
        onun bizim çünkü eğer ise yani şimdi önce nasıl kaç sayı cevap eşit iki üç olur oldu olduğu vardır yok hem veya bütün
        tüm göre ancak dolayısıyla""",
    "vi": """là và của có không được cho một các những này đó trong với người để khi đã sẽ thì cũng như từ ra vào nhiều hơn rất tôi chúng
        ta bạn nó họ nếu vì nên mà ở đến bằng số trả lời hai ba ngày cần phải làm đi lại còn vậy""",
    "id": """yang dan di dari untuk dengan ini itu tidak pada adalah ke dalam akan atau juga oleh sebagai karena kita kami saya anda dia
        mereka ada bisa dapat harus lebih sudah telah jika maka jadi sehingga seperti tetapi namun setiap semua satu dua tiga
        berapa jawaban bilangan sama sekarang kemudian antara tersebut menjadi""",
    "fi": """ja on ei se että oli hän ovat en mutta kun niin jos tai kuin myös sen siitä joka jotka mikä mitä tämä tämän nämä ne he me
        te minä sinä kaikki ole voi pitää sitten nyt koska siis vain vielä mukaan jälkeen kanssa kuinka monta luku vastaus yhtä
        kaksi kolme olla olen olemme sekä eli joten ovatko hyvin sekä eivät""",
    "sw": """ya wa na kwa ni katika za la cha vya kuwa hii hiyo huo huu hilo yake wake sana kama lakini au pia hivyo kila wote yote bila
        baada kabla sasa kwamba ili mimi wewe yeye sisi wao moja mbili tatu jibu namba idadi watu mtu siku kitu hapa hapo
        wakati ambayo ambao hakuna nini tunaweza zaidi""",
    "ro": """și de la în cu pe un o este sunt nu că se din care pentru mai sau dar ce al ai ale lui ei ca prin fi fost are au dacă
        atunci deci când cum unde acest această aceste acum apoi foarte toate toți fiecare număr răspuns egal câte cât două trei
        avem noi voi fără între după""",
    "hu": """az és hogy nem is ez egy van volt de meg mint csak már ha akkor mert ki mi ő ők ezt azt el még vagy minden lehet kell
        tehát most után között szám válasz egyenlő mennyi hány két három lesz így itt ott amely ami aki nincs ezek azok""",
    # Not a language but Chinese in Latin letters, which is no Chinese to its reader; words that English has too are left out.
    "pinyin": """shi zai wo ni ta women tamen zhe zhege nage ge le de hen bu ye dou jiu suoyi yinwei ruguo ranhou keyi yige liang shenme
        duoshao daan deng dengyu jia jian chu xian zhi dao wei de yi yao rang suan xia lai qu shuo mei meiyou hai cai yu""",
}
_CYRILLIC = {
    "ru": """да и в не на что он как это по но из у за так от же вы бы мы она они его её для все если или когда чтобы уже то есть был была
        было были быть при этот эта эти тот который также только ответ число равно сколько потому поэтому теперь затем где""",
    "uk": """і й в не на що він як це по але із у за так від ж ви би ми вона вони його її для всі якщо або коли щоб вже те є був була
        було були бути при цей ця ці той який також тільки відповідь число дорівнює скільки тому тепер потім де та до""",
    "bg": """и в не на че той как това по но от за така със с ще бъде да се си са е ние вие тя те го му й за всички ако или когато
        вече беше били при този тази тези който която които също само отговор число равно колко защото затова сега след където""",
}
_ARABIC = {
    "ar": """في من على إلى عن أن هذا هذه التي الذي ما لا هو هي كان كانت مع كل أو ثم قد لم لن إذا حيث بعد قبل بين عند ذلك تلك نحن هم
        أنا يكون غير حتى لكن إن الى كما هناك""",
    "fa": """در از به که این آن را با است برای می یک تا بر هم نیز یا اما اگر ما شما او آنها هر باید بود شد شده خود کرد کند دارد چه چون
        پس نیست هستند بین همه بسیار های ها""",
    "ur": """میں کے کی کا ہے ہیں اور سے کو نے پر یہ وہ کہ ایک تھا تھی تھے ہو گا گی گے جو کر بھی نہیں تو ہم آپ اس ان لیے ساتھ کیا یا
        اگر لیکن بہت ہوتا ہوتی جب تک""",
}
_DEVANAGARI = {
    "hi": """है हैं के की का में और से को ने पर यह वह कि एक था थी थे हो गा जो कर भी नहीं तो हम आप इस उस लिए साथ क्या या अगर लेकिन
        बहुत होता होती जब तक ये वे अपने करने किया गया""",
    "mr": """आहे आहेत च्या ची चा मध्ये आणि ने ला वर हे तो ती ते की एक होता होती होते असे जे करून पण नाही तर आम्ही तुम्ही या त्या साठी काय
        किंवा जर परंतु खूप जेव्हा आपण त्याच्या मी माझ्या""",
    "ne": """छ छन् छैन को का की मा र ले लाई बाट यो त्यो कि एक थियो थिए हो जो गरेर पनि होइन भने हामी तपाईं यस त्यस लागि साथ के वा यदि तर
        धेरै जब सम्म गर्न हुन्छ गरेको भएको आफ्नो म मेरो हुनुहुन्छ""",
}

SCRIPTS = {"latin": _LATIN, "cyrillic": _CYRILLIC, "arabic": _ARABIC, "devanagari": _DEVANAGARI}
"""For each script that several languages write: their words."""

HOME = {"latin": "en", "cyrillic": "ru", "arabic": "ar", "devanagari": "hi"}
"""For each of these scripts the language of words that nothing is known about."""

_MARKS = {
    "es": "ñ¿¡", "pt": "ãõç", "fr": "éèêçàùûîœ", "de": "ßäöü", "it": "èàùòì", "pl": "łąęśźżćń", "sv": "åäö", "da": "øåæ", "fi": "äö",
    "tr": "ğşıç", "cs": "řěůčšž", "ro": "ășțâ", "hu": "őűáé", "vi": "đơưạảấầẩậắặẵẻẽếềểệỉịọỏốồổộớờởợụủứừửữựỳỹ", "pinyin": "ǎǐǒǔǚǜāēīōū",
    "uk": "іїєґ", "ru": "ыэё", "bg": "ъ", "fa": "پچژگکی", "ur": "ٹڈڑےہں", "ar": "ةىأإ", "mr": "ळ", "ne": "छँ",
}  # fmt: skip


Owners = dict[str, tuple[tuple[str, float], ...]]


def _shared(entries: dict[str, list[str]]) -> Owners:
    """Which languages have each member, and the share of its vote that each of them gets."""
    owners: dict[str, list[str]] = {}
    for language, members in entries.items():
        for member in dict.fromkeys(members):
            owners.setdefault(member, []).append(language)
    return {member: tuple((language, 1 / len(languages)) for language in languages) for member, languages in owners.items()}


VOTES: dict[str, Owners] = {
    script: _shared({tongue: [word for word in words.split() if len(word) > 1] for tongue, words in tongues.items()})
    for script, tongues in SCRIPTS.items()
}
"""For each script its telling words and the languages that have them."""

LETTERS: dict[str, Owners] = {
    script: _shared({tongue: list(_MARKS[tongue]) for tongue in tongues if tongue in _MARKS}) for script, tongues in SCRIPTS.items()
}
"""For each script its telling letters and the languages that write them."""

_INITIALS = "b p m f d t n l g k h j q x r z c s y w zh ch sh"
_FINALS = "a o e ai ei ao ou an en ang eng ong er i ia ie iao iu ian in iang ing iong u ua uo uai ui uan un uang ue v ve"
SYLLABLES = frozenset(initial + final for initial in ["", *_INITIALS.split()] for final in _FINALS.split() if initial or final[0] in "aoe")
"""What pinyin is made of (more than Chinese has, which does no harm where every word must be made of them)."""
