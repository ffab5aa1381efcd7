"""File, SHA-256 and task of every data set that `load` knows."""

from typing import NamedTuple


class Facts(NamedTuple):
    """What is known of one data set."""

    file: str
    sha256: str
    task: str


FACTS = {
    "activity_hapt_derived": Facts(
        "activity_hapt_derived.npz",
        "f9217253947fe334a076c5429e12c7b41d5a4b2da5162dbbb5a8bebdb5737713",
        "feature selection, 6 classes",
    ),
    "adult": Facts(
        "adult.parquet",
        "8de7b5ef3d747ff87d08723878401a038569b394702a73d191e5d4dd68db131f",
        "binary classification, mixed types",
    ),
    "ag_news_half": Facts(
        "ag_news_half.parquet",
        "ebd6f80e8ab3f4483d7275af9a9c7cfd4f7dbad0126da08aef980cbe61512d87",
        "4-class news, even rows of the official test set",
    ),
    "allaml": Facts(
        "allaml.npz",
        "d836b02933079d66e9e5433081175a799d4b9aad9d6e3bfba434b7ddf92a7bf9",
        "feature selection, 2 classes, p >> n",
    ),
    "bike_sharing_hour": Facts(
        "bike_sharing_hour.parquet",
        "c35dad36f25decd1fee1956d4a15e2ac71d8270b79991147286c29d98a1f379d",
        "counts (cnt)",
    ),
    "cifar10": Facts(
        "cifar10.npz",
        "79be3efecd7805104d6d6ccedc258e30c3b4bc62c7c98e7dc0e49d8729e651c5",
        "images, 10 classes",
    ),
    "coil20": Facts(
        "coil20.npz",
        "00f2124993814b7112f8c6740d11179ccccb3f5bfe3214cbeefb9c68d65620b7",
        "feature selection, 20 classes",
    ),
    "colon": Facts(
        "colon.npz",
        "ae3d326dbefd2d10347e1ed7310fefb55ee74f241efdf67daebb81bc1028d37b",
        "feature selection, 2 classes, p >> n",
    ),
    "communities_crime": Facts(
        "communities_crime.parquet",
        "96f4f3f5a4604587efd884c38f840507ff8ecfbda8fb236f1ba4d310be8a5b2e",
        "regression, p = 122, many missing values",
    ),
    "cora": Facts(
        "cora.npz",
        "4288d1d15f1bccec13531c669745f8d0522952008748504ea49906d2852eaa4f",
        "graph, 7 classes, CSR features",
    ),
    "fashion_mnist": Facts(
        "fashion_mnist.npz",
        "1768235bb7e2e1f3cf4efde4138097a7ef806564e4a298aa5c06b174a0335e81",
        "images, 10 classes",
    ),
    "hiva": Facts(
        "hiva.npz",
        "408a1564c58ee41d0306bf3c5055eae9ba5fa56c04e3707e36d00c1ea6b3109b",
        "feature selection, 2 unbalanced classes, binary features",
    ),
    "isolet": Facts(
        "isolet.npz",
        "a380c2120724746f3617dd5665e5bf3c20187c3d15e6b19727ba560bf6ea3886",
        "feature selection, 26 classes",
    ),
    "jester5k": Facts(
        "jester5k.npz",
        "b24d863e49602f12f69e2511daeff3bbe5e8d2598e2ea262315596e342b27dd9",
        "matrix completion, 5000 x 100, ratings -10 to 10",
    ),
    "madelon": Facts(
        "madelon.npz",
        "f67e57befe42027cc377be0a333a911fbdeffd8a047fcdf2a211ecbdb1c9d0de",
        "2 classes, 20 of 500 columns useful",
    ),
    "mice_protein": Facts(
        "mice_protein.npz",
        "8025583740a643f1fc56e28530ed501f31b28a94390ce9f0244292d03aeaa8c1",
        "8 classes, 1396 missing values; split by mouse_id",
    ),
    "mnist": Facts(
        "mnist.npz",
        "bb51efcb553fecb06d353502a495a8b30d1be5a30d70f0774addc7439feefabe",
        "images, 10 classes",
    ),
    "movielens_small": Facts(
        "movielens_small.npz",
        "83ecadbad9ad9d952cdc603aff5eed92b211deb1d2b786ec6e2e82de6e6785de",
        "matrix completion, 610 x 9724",
    ),
    "pcmac": Facts(
        "pcmac.npz",
        "7f37bc568b1918e498723617acafd884dac007fb165e87944b7c3da324f8980e",
        "text feature selection, counts, 2 newsgroups",
    ),
    "prostate_ge": Facts(
        "prostate_ge.npz",
        "4b88587c15e807cc636bb1b1a19c09d13edb5c72037a622acd990d788b1f212f",
        "feature selection, 2 classes, p >> n",
    ),
    "rcv1_small": Facts(
        "rcv1_small.npz",
        "ccc7e19613163985e01613e6ab59d4e4753236d919829675f8a0baae7565328b",
        "text classification, CSR",
    ),
    "riboflavin": Facts(
        "riboflavin.npz",
        "f34756192842477741213494dc769bcedeef74b7bdd2f3c15d534e37e5e50612",
        "regression, p >> n",
    ),
    "rwm5yr_doctor_visits": Facts(
        "rwm5yr_doctor_visits.parquet",
        "ae3348b101d97616cbe79cf3a50f3ffae268e52988eec5750b6ab42a0f15e5ad",
        "counts (docvis)",
    ),
    "spambase": Facts(
        "spambase.parquet",
        "5b9a67e4773fbde04240576c21f7ada9152bade5dafa0023dd5aea8fae82c809",
        "binary classification",
    ),
    "sst2": Facts(
        "sst2.parquet",
        "e9a74f859a5d14a58aa978b6e3bd6318d27db529a633f41a3f18e2dd5a602cd2",
        "sentiment of sentences, train and dev",
    ),
    "surv_flchain": Facts(
        "surv_flchain.parquet",
        "7ed79f8f0ca851c2aee505616f92b0258c20ce8f1b70e88b80eae308e2b2cf51",
        "survival",
    ),
    "surv_gbsg2": Facts(
        "surv_gbsg2.parquet",
        "d58e9ecab84e712efc994d54238b5acc09401c6b64e562624898c804afc19e4c",
        "survival (time, cens)",
    ),
    "surv_support": Facts(
        "surv_support.parquet",
        "309ff42c8684ba26461077e84e13afdf24bb59b251e3526cc36dc1341d366e13",
        "survival (duration, event)",
    ),
    "surv_transbig": Facts(
        "surv_transbig.parquet",
        "d55bcf106fce204f283d066b7a2a1920176375bf7bccfc411bee8b7a437d5c66",
        "survival, 76 genes",
    ),
    "surv_veteran": Facts(
        "surv_veteran.parquet",
        "913282023c9abf363cfee494af73a85cbf6477ed32d478dd1ad136ec1437b7b6",
        "survival (Survival_in_days, Status)",
    ),
    "surv_whas500": Facts(
        "surv_whas500.parquet",
        "4c33d9e4f4c3c7646dc2201373ddce048b3d32c042a268753f9199a740674781",
        "survival",
    ),
    "tecator_meats": Facts(
        "tecator_meats.npz",
        "651d4deea830835394ebf2e7b3cae4e729c6db8b1fa4dde1979dfe64cbe5c448",
        "regression with 3 outputs, 100 collinear channels",
    ),
    "tinyshakespeare": Facts(
        "input.txt.gz",
        "bf237b9f5a05abe79d7a0caa809b6513fbcbc323e9521a77086d556e4c9bbed8",
        "character language model, 1.1 MB of text",
    ),
    "tox171": Facts(
        "tox171.npz",
        "17d2ccc31ac026094106cb576680f3af48ed66a450f90893bb8bf99b2a233092",
        "feature selection, 4 classes, p >> n",
    ),
    "video_vtest": Facts(
        "video_vtest.npz",
        "21f4389c400b3c22998adcb363f48836e39b6d53d86094236664cb41f053c1ba",
        "robust PCA of video frames, static camera",
    ),
    "warppie10p": Facts(
        "warppie10p.npz",
        "06056272e92037b3a621bffc907f3527e647f606eeffcdc444cbd3fd5ee3bdfb",
        "faces, 10 classes",
    ),
    "wikitext2_valid": Facts(
        "valid.txt.gz",
        "a92a2da4418be833a842d30edb1711a363eaa9194c4b4e4d0953daf9af231e8f",
        "word language model, validation part",
    ),
    "wine_quality": Facts(
        "wine_quality.parquet",
        "9ef6d6e5f23b1eefd440c5f6468cd2706e686d7e2bcddd8ee574edece5363c13",
        "ordered labels (quality 3 to 9)",
    ),
    "yale_faces": Facts(
        "yale_faces.npz",
        "f4e6f3c45c4c93a5de19ab888fcefdb44c8cb5fe8175adbe53d7191108fced59",
        "faces 32 x 32, 15 classes",
    ),
}
