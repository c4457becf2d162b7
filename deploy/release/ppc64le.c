// zig compiles its libunwind for ppc64le with the IEEE format of `long double`. glibc has these two
// functions for that format only since 2.32. libunwind prints no `long double`, so the older
// functions do the same.

int vfprintf(void *, const char *, __builtin_va_list);
int vsnprintf(char *, unsigned long, const char *, __builtin_va_list);

int __fprintfieee128(void *stream, const char *format, ...) {
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    int written = vfprintf(stream, format, arguments);
    __builtin_va_end(arguments);
    return written;
}

int __snprintfieee128(char *text, unsigned long size, const char *format, ...) {
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    int written = vsnprintf(text, size, format, arguments);
    __builtin_va_end(arguments);
    return written;
}
