"""Vectors of others, copied from the documents named. They hold for `reference`, too."""

from reference import SUITES, Keys, expand


def published_file():
    gcm_plain = (
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    gcm_aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
    gcm_key = "feffe9928665731c6d6a8f9467308308"
    aead = [
        {
            "source": "McGrew, Viega: The Galois/Counter Mode of Operation, test case 4",
            "suite": 0x1301,
            "key": gcm_key,
            "nonce": "cafebabefacedbaddecaf888",
            "aad": gcm_aad,
            "plaintext": gcm_plain,
            "ciphertext": "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
            "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            "tag": "5bc94fbc3221a5db94fae95ae7121a47",
        },
        {
            "source": "McGrew, Viega: The Galois/Counter Mode of Operation, test case 16",
            "suite": 0x1302,
            "key": gcm_key * 2,
            "nonce": "cafebabefacedbaddecaf888",
            "aad": gcm_aad,
            "plaintext": gcm_plain,
            "ciphertext": "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "tag": "76fc6ece0f4e1768cddf8853bb2d551b",
        },
        {
            "source": "RFC 8439, section 2.8.2",
            "suite": 0x1303,
            "key": bytes(range(0x80, 0xA0)).hex(),
            "nonce": "070000004041424344454647",
            "aad": "50515253c0c1c2c3c4c5c6c7",
            "plaintext": (
                b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for "
                b"the future, sunscreen would be it."
            ).hex(),
            "ciphertext": "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
            "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
            "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
            "3ff4def08e4b7a9de576d26586cec64b6116",
            "tag": "1ae10b594f09e26a7e902ecbd0600691",
        },
    ]
    for v in aead:
        sealed = SUITES[v["suite"]][1](bytes.fromhex(v["key"])).encrypt(
            bytes.fromhex(v["nonce"]), bytes.fromhex(v["plaintext"]), bytes.fromhex(v["aad"])
        )
        assert sealed.hex() == v["ciphertext"] + v["tag"], v["source"]

    hkdf = {
        "source": "RFC 5869, appendix A.1",
        "suite": 0x1301,
        "prk": "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "info": bytes(range(0xF0, 0xFA)).hex(),
        "okm": "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        "34007208d5b887185865",
    }
    okm = expand(hkdf["suite"], bytes.fromhex(hkdf["prk"]), bytes.fromhex(hkdf["info"]), 42)
    assert okm.hex() == hkdf["okm"]

    tls = {
        "source": "RFC 8448, section 3",
        "suite": 0x1301,
        "client": {
            "traffic_secret": "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
            "key": "17422dda596ed5d9acd890e3c63f5051",
            "iv": "5b78923dee08579033e523d9",
            "number": 0,
            "record": "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f"
            "2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae6"
            "3aeebb21694915e4",
        },
        "server": {
            "traffic_secret": "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
            "key": "9f02283b6c9c07efc26bb9f2ac92e356",
            "iv": "cf782b88dd83549aadf1e984",
            "number": 1,
            "record": "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36"
            "e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540"
            "dd032e167c2955d",
        },
        "plaintext": bytes(range(50)).hex(),
    }
    for side in ("client", "server"):
        v = tls[side]
        keys = Keys(tls["suite"], bytes.fromhex(v["traffic_secret"]))
        assert (keys.key.hex(), keys.iv.hex()) == (v["key"], v["iv"]), side
        sealed = keys.seal(v["number"], bytes.fromhex(tls["plaintext"]))
        assert sealed.hex() == v["record"], side
    return {"aead": aead, "hkdf": hkdf, "tls": tls}
