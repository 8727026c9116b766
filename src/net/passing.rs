//! What a wrapper of a stream leaves to the stream inside it.

/// Implements methods of `AsyncRead` and `AsyncWrite`, or all of `AsyncWrite`, by those of the field that is
/// named first.
macro_rules! pass_on {
    ($io:ident: AsyncWrite) => {
        $crate::net::passing::pass_on!(
            $io: poll_write, poll_write_vectored, is_write_vectored, poll_flush, poll_shutdown
        );
    };
    ($io:ident: $($method:ident),+) => {
        $($crate::net::passing::pass_on!(@$method $io);)+
    };
    (@poll_read $io:ident) => {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$io).poll_read(cx, buf)
        }
    };
    (@poll_write $io:ident) => {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$io).poll_write(cx, buf)
        }
    };
    (@poll_write_vectored $io:ident) => {
        fn poll_write_vectored(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            bufs: &[std::io::IoSlice<'_>],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.$io).poll_write_vectored(cx, bufs)
        }
    };
    (@is_write_vectored $io:ident) => {
        fn is_write_vectored(&self) -> bool {
            self.$io.is_write_vectored()
        }
    };
    (@poll_flush $io:ident) => {
        fn poll_flush(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$io).poll_flush(cx)
        }
    };
    (@poll_shutdown $io:ident) => {
        fn poll_shutdown(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::pin::Pin::new(&mut self.$io).poll_shutdown(cx)
        }
    };
}
pub(super) use pass_on;
