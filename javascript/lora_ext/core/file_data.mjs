// Bytes as text, as the API takes them.

/** The content of a file or a part of one in base64. @param {Blob} blob @returns {Promise<string>} */
export function base64(blob) {
    return new Promise((done, failed) => {
        const reader = new FileReader();
        reader.onload = () => done(String(reader.result).split(",")[1] || "");
        reader.onerror = () => failed(reader.error);
        reader.readAsDataURL(blob);
    });
}
